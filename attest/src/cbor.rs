//! The deterministic subset of CBOR that evidence is written in (RFC 8949, section 4.2.1).
//!
//! ```text
//! head     = major type (3 bits) ‖ length or value, in the fewest bytes that hold it
//! types    = 0 uint   2 byte string   3 text   4 array   5 map with unsigned keys, ascending
//! ```
//!
//! Nothing else exists here: no negative numbers, floats, tags, simple values or indefinite
//! lengths. What [`Decoder`] accepts is exactly what [`Encoder`] writes.

/// Why bytes are not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// The input ends within an item.
    #[error("the input ends within an item")]
    Truncated,
    /// A number or length is written in more bytes than it needs.
    #[error("a number is not in its shortest form")]
    NotShortest,
    /// An item of another type than expected.
    #[error("an item of major type {found} where {expected} was expected")]
    Type {
        /// Major type that had to follow.
        expected: u8,
        /// Major type that did follow.
        found: u8,
    },
    /// Longer than its place allows, or of another length than fixed.
    #[error("a length of {found} where {limit} is the limit")]
    Length {
        /// Length or limit that had to hold.
        limit: usize,
        /// Length that was announced.
        found: u64,
    },
    /// A map's keys are not those expected, in ascending order.
    #[error("key {found} where key {expected} was expected")]
    Key {
        /// Key that had to follow.
        expected: u64,
        /// Key that did follow.
        found: u64,
    },
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// Bytes follow the last item.
    #[error("bytes follow the last item")]
    Trailing,
}

const UINT: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

/// Writes items one after the other.
#[derive(Debug, Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// An encoder that has written nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An unsigned number, also as a map's key.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(UINT, value)
    }

    /// A byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.head(BYTES, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.head(TEXT, text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// The head of an array; `length` items must follow.
    pub fn array(&mut self, length: usize) -> &mut Self {
        self.head(ARRAY, length as u64)
    }

    /// The head of a map; `length` keys in ascending order, each with its value, must follow.
    pub fn map(&mut self, length: usize) -> &mut Self {
        self.head(MAP, length as u64)
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        let wide = value.to_be_bytes();
        match value {
            0..=23 => self.0.push(major | wide[7]),
            24..=0xff => self.0.extend([major | 24, wide[7]]),
            0x100..=0xffff => {
                self.0.push(major | 25);
                self.0.extend_from_slice(&wide[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.0.push(major | 26);
                self.0.extend_from_slice(&wide[4..]);
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend_from_slice(&wide);
            }
        }
        self
    }
}

/// Reads items one after the other, each of the type and within the length that is asked for.
#[derive(Clone, Debug)]
pub struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// A decoder at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// An unsigned number.
    pub fn uint(&mut self) -> Result<u64, CborError> {
        self.head(UINT)
    }

    /// A byte string of at most `limit` bytes.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], CborError> {
        let length = self.length(BYTES, limit)?;
        self.take(length)
    }

    /// A byte string of exactly `N` bytes.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let bytes = self.bytes(N)?;
        let found = bytes.len() as u64;
        bytes
            .try_into()
            .map_err(|_| CborError::Length { limit: N, found })
    }

    /// A text of at most `limit` bytes.
    pub fn text(&mut self, limit: usize) -> Result<&'a str, CborError> {
        let length = self.length(TEXT, limit)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| CborError::Text)
    }

    /// The head of an array of at most `limit` items: how many follow.
    pub fn array(&mut self, limit: usize) -> Result<usize, CborError> {
        self.length(ARRAY, limit)
    }

    /// The head of a map of exactly `length` pairs.
    pub fn map(&mut self, length: usize) -> Result<(), CborError> {
        match self.length(MAP, length)? {
            found if found == length => Ok(()),
            found => Err(CborError::Length {
                limit: length,
                found: found as u64,
            }),
        }
    }

    /// The key `expected` of a map. Asking for keys in ascending order is what makes maps
    /// canonical.
    pub fn key(&mut self, expected: u64) -> Result<(), CborError> {
        match self.uint()? {
            found if found == expected => Ok(()),
            found => Err(CborError::Key { expected, found }),
        }
    }

    /// Nothing follows.
    pub fn end(&self) -> Result<(), CborError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(CborError::Trailing)
        }
    }

    fn length(&mut self, major: u8, limit: usize) -> Result<usize, CborError> {
        let found = self.head(major)?;
        match usize::try_from(found) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(CborError::Length { limit, found }),
        }
    }

    fn head(&mut self, expected: u8) -> Result<u64, CborError> {
        let first = self.take(1)?[0];
        let found = first >> 5;
        if found != expected {
            return Err(CborError::Type { expected, found });
        }
        let (width, least) = match first & 0x1f {
            value @ 0..=23 => return Ok(u64::from(value)),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            _ => return Err(CborError::NotShortest),
        };
        let value = self
            .take(width)?
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        if value < least {
            Err(CborError::NotShortest)
        } else {
            Ok(value)
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CborError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(CborError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u64) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.uint(value);
        encoder.finish()
    }

    /// Examples of RFC 8949, appendix A.
    #[test]
    fn numbers_take_the_shortest_form_both_ways() {
        let examples: [(u64, &[u8]); 9] = [
            (0, &[0x00]),
            (23, &[0x17]),
            (24, &[0x18, 0x18]),
            (100, &[0x18, 0x64]),
            (1000, &[0x19, 0x03, 0xe8]),
            (65_535, &[0x19, 0xff, 0xff]),
            (1_000_000, &[0x1a, 0x00, 0x0f, 0x42, 0x40]),
            (
                1_000_000_000_000,
                &[0x1b, 0, 0, 0, 0xe8, 0xd4, 0xa5, 0x10, 0],
            ),
            (u64::MAX, &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255]),
        ];
        for (value, bytes) in examples {
            assert_eq!(number(value), bytes);
            assert_eq!(Decoder::new(bytes).uint(), Ok(value));
        }
    }

    #[test]
    fn longer_forms_are_refused() {
        for bytes in [
            &[0x18, 23][..],
            &[0x19, 0, 0xff],
            &[0x1a, 0, 0, 0xff, 0xff],
            &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255],
            &[0x1f],
            &[0x1c],
        ] {
            assert_eq!(
                Decoder::new(bytes).uint(),
                Err(CborError::NotShortest),
                "{bytes:?}"
            );
        }
        assert_eq!(Decoder::new(&[0x5f]).bytes(9), Err(CborError::NotShortest));
    }

    #[test]
    fn lengths_types_keys_and_ends_are_checked() {
        let long = CborError::Length { limit: 2, found: 3 };
        assert_eq!(Decoder::new(&[0x43, 1, 2, 3]).bytes(2), Err(long));
        assert_eq!(
            Decoder::new(&[0x82]).map(2),
            Err(CborError::Type {
                expected: 5,
                found: 4
            })
        );
        assert_eq!(
            Decoder::new(&[0xa1]).map(2),
            Err(CborError::Length { limit: 2, found: 1 })
        );
        assert_eq!(
            Decoder::new(&[0x02]).key(1),
            Err(CborError::Key {
                expected: 1,
                found: 2
            })
        );
        assert_eq!(Decoder::new(&[0x42, 1]).bytes(2), Err(CborError::Truncated));
        assert_eq!(
            Decoder::new(&[0x41, 1]).fixed::<2>(),
            Err(CborError::Length { limit: 2, found: 1 })
        );
        assert_eq!(Decoder::new(&[0x61, 0xff]).text(2), Err(CborError::Text));
        assert_eq!(
            Decoder::new(&[0x5b, 255, 255, 255, 255, 255, 255, 255, 255]).bytes(usize::MAX),
            Err(CborError::Truncated)
        );
        assert_eq!(Decoder::new(&[0]).end(), Err(CborError::Trailing));
        assert_eq!(Decoder::new(&[]).uint(), Err(CborError::Truncated));
    }
}

//! GUIDs: text and disk order.

use std::fmt;
use std::str::FromStr;

/// A GUID, kept in the order of its text form.
///
/// On disk a GPT stores the first three fields in little-endian order (UEFI 2.10, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

/// Why a text is not a GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuidError {
    /// Not 36 characters long.
    #[error("a GUID has 36 characters, not {0}")]
    Length(usize),
    /// A character is neither a lower-case hexadecimal digit nor a hyphen in its place.
    #[error("character {0} of the GUID is not the lower-case digit or hyphen that belongs there")]
    Character(usize),
}

impl Guid {
    /// All zero: an unused partition entry.
    pub const NIL: Self = Self([0; 16]);

    /// From the 16 bytes in text order.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes in text order.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From the 16 bytes in the order of a GPT.
    pub const fn from_disk(disk: [u8; 16]) -> Self {
        Self(swap_fields(disk))
    }

    /// The 16 bytes in the order of a GPT.
    pub const fn to_disk(self) -> [u8; 16] {
        swap_fields(self.0)
    }

    /// A GUID of version 8 (custom, RFC 9562) made from the first 16 bytes of a digest.
    pub const fn from_digest(digest: &[u8; 32]) -> Self {
        let mut bytes = [0; 16];
        let mut index = 0;
        while index < 16 {
            bytes[index] = digest[index];
            index += 1;
        }
        bytes[6] = (bytes[6] & 0x0f) | 0x80;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }
}

/// Reverses the three little-endian fields; its own inverse.
const fn swap_fields(b: [u8; 16]) -> [u8; 16] {
    [
        b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13],
        b[14], b[15],
    ]
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let text = text.as_bytes();
        if text.len() != 36 {
            return Err(GuidError::Length(text.len()));
        }
        let mut bytes = [0; 16];
        let mut digits = 0;
        for (index, &character) in text.iter().enumerate() {
            match (index, character) {
                (8 | 13 | 18 | 23, b'-') => {}
                (8 | 13 | 18 | 23, _) => return Err(GuidError::Character(index)),
                (_, character) => {
                    let digit = crate::volume::hex_digit(character);
                    let digit = digit.ok_or(GuidError::Character(index))?;
                    bytes[digits / 2] = (bytes[digits / 2] << 4) | digit;
                    digits += 1;
                }
            }
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_efi_system_partition_type_has_its_known_disk_form() {
        let guid: Guid = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".parse().unwrap();
        let disk = [
            0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e,
            0xc9, 0x3b,
        ];
        assert_eq!(guid.to_disk(), disk);
        assert_eq!(Guid::from_disk(disk), guid);
        assert_eq!(guid.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }

    #[test]
    fn text_that_is_not_canonical_is_refused() {
        assert_eq!("c12a".parse::<Guid>(), Err(GuidError::Length(4)));
        let upper = "C12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        assert_eq!(upper.parse::<Guid>(), Err(GuidError::Character(0)));
        let hyphen = "c12a732-8f81f-11d2-ba4b-00a0c93ec93b";
        assert_eq!(hyphen.parse::<Guid>(), Err(GuidError::Character(7)));
    }
}

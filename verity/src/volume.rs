//! The name of a volume.
//!
//! ```text
//! verity1:<root hash, 64 hex>:<salt, 64 hex>:<data blocks, decimal>
//! ```
//!
//! Lower-case digits, no sign, no leading zero, at least one block: one volume has one text.

use std::fmt;
use std::str::FromStr;

use crate::{BLOCK_BYTES, Guid};

/// Everything that the kernel needs to check a volume: dm-verity format 1, SHA-256, blocks of
/// 4096 bytes, a 32-byte salt. Measured wherever it stands, so that nothing on the disk is trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VolumeRef {
    root_hash: [u8; 32],
    salt: [u8; 32],
    data_blocks: u64,
}

/// Why a text does not name a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VolumeRefError {
    /// Does not start with `verity1:`.
    #[error("a volume reference starts with `verity1:`")]
    Scheme,
    /// Not exactly root hash, salt and block count.
    #[error("a volume reference has a root hash, a salt and a block count, separated by `:`")]
    Fields,
    /// The root hash is not 64 lower-case hexadecimal digits.
    #[error("the root hash is not 64 lower-case hexadecimal digits")]
    RootHash,
    /// The salt is not 64 lower-case hexadecimal digits.
    #[error("the salt is not 64 lower-case hexadecimal digits")]
    Salt,
    /// The block count is not a plain decimal number from 1 to [`VolumeRef::MAX_DATA_BLOCKS`].
    #[error("the block count is not a plain decimal number from 1 to 2^40")]
    DataBlocks,
}

impl VolumeRef {
    /// Largest volume: 4 PiB.
    pub const MAX_DATA_BLOCKS: u64 = 1 << 40;

    /// A reference; refuses a block count of 0 or beyond [`Self::MAX_DATA_BLOCKS`].
    pub fn new(
        root_hash: [u8; 32],
        salt: [u8; 32],
        data_blocks: u64,
    ) -> Result<Self, VolumeRefError> {
        if data_blocks == 0 || data_blocks > Self::MAX_DATA_BLOCKS {
            return Err(VolumeRefError::DataBlocks);
        }
        Ok(Self {
            root_hash,
            salt,
            data_blocks,
        })
    }

    /// The hash of the whole tree.
    pub const fn root_hash(&self) -> &[u8; 32] {
        &self.root_hash
    }

    /// The salt that is hashed before every block.
    pub const fn salt(&self) -> &[u8; 32] {
        &self.salt
    }

    /// Number of data blocks, at least 1.
    pub const fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Bytes of data.
    pub const fn data_bytes(&self) -> u64 {
        self.data_blocks * BLOCK_BYTES
    }

    /// Unique GUID of the partition that holds the data: the first half of the root hash.
    pub fn data_guid(&self) -> Guid {
        Guid::from_bytes(self.root_half(0))
    }

    /// Unique GUID of the partition that holds the hash tree: the second half of the root hash.
    pub fn hash_guid(&self) -> Guid {
        Guid::from_bytes(self.root_half(16))
    }

    fn root_half(&self, start: usize) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.root_hash[start..start + 16]);
        half
    }
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (root, salt) = (Hex(&self.root_hash), Hex(&self.salt));
        write!(f, "verity1:{root}:{salt}:{}", self.data_blocks)
    }
}

impl fmt::Debug for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeRef({self})")
    }
}

impl FromStr for VolumeRef {
    type Err = VolumeRefError;

    fn from_str(text: &str) -> Result<Self, VolumeRefError> {
        let fields = text
            .strip_prefix("verity1:")
            .ok_or(VolumeRefError::Scheme)?;
        let fields: Vec<&str> = fields.splitn(4, ':').collect();
        let [root_hash, salt, data_blocks] = fields[..] else {
            return Err(VolumeRefError::Fields);
        };
        let root_hash = hex_32(root_hash).ok_or(VolumeRefError::RootHash)?;
        let salt = hex_32(salt).ok_or(VolumeRefError::Salt)?;
        if data_blocks.starts_with(['0', '+']) {
            return Err(VolumeRefError::DataBlocks);
        }
        let data_blocks = data_blocks
            .parse()
            .map_err(|_| VolumeRefError::DataBlocks)?;
        Self::new(root_hash, salt, data_blocks)
    }
}

/// Shows bytes as lower-case hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// 32 bytes from exactly 64 lower-case hexadecimal digits.
pub(crate) fn hex_32(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

/// The value of a lower-case hexadecimal digit.
pub(crate) const fn hex_digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(root: &str, salt: &str, blocks: &str) -> String {
        format!("verity1:{root}:{salt}:{blocks}")
    }

    #[test]
    fn guids_are_the_halves_of_the_root_hash() {
        let root: Vec<u8> = (0..32).collect();
        let volume = VolumeRef::new(root.try_into().unwrap(), [7; 32], 1).unwrap();
        assert_eq!(
            volume.data_guid().to_string(),
            "00010203-0405-0607-0809-0a0b0c0d0e0f"
        );
        assert_eq!(
            volume.hash_guid().to_string(),
            "10111213-1415-1617-1819-1a1b1c1d1e1f"
        );
    }

    #[test]
    fn each_fault_has_its_own_refusal() {
        use VolumeRefError as E;
        let (root, salt) = (&"ab".repeat(32), &"01".repeat(32));
        let upper = "AB".repeat(32);
        let cases = [
            (String::new(), E::Scheme),
            (format!("verity2:{root}:{salt}:1"), E::Scheme),
            (format!(" {}", text(root, salt, "1")), E::Scheme),
            (format!("verity1:{root}:{salt}"), E::Fields),
            (text(root, salt, "1:2"), E::Fields),
            (text(&upper, salt, "1"), E::RootHash),
            (text(&root[..62], salt, "1"), E::RootHash),
            (text("", salt, "1"), E::RootHash),
            (text(root, &upper, "1"), E::Salt),
            (text(root, "", "1"), E::Salt),
            (text(root, salt, ""), E::DataBlocks),
            (text(root, salt, "0"), E::DataBlocks),
            (text(root, salt, "01"), E::DataBlocks),
            (text(root, salt, "+1"), E::DataBlocks),
            (text(root, salt, "-1"), E::DataBlocks),
            (text(root, salt, "1 "), E::DataBlocks),
            (text(root, salt, "1099511627777"), E::DataBlocks),
            (text(root, salt, "99999999999999999999999"), E::DataBlocks),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<VolumeRef>(), Err(error), "{text}");
        }
        let largest = text(root, salt, "1099511627776");
        assert_eq!(largest.parse::<VolumeRef>().unwrap().to_string(), largest);
    }

    proptest! {
        #[test]
        fn what_parses_is_canonical(text in "(verity1:)?[0-9a-fA-F:]{0,140}|\\PC*") {
            if let Ok(volume) = text.parse::<VolumeRef>() {
                prop_assert_eq!(volume.to_string(), text);
            }
        }

        #[test]
        fn every_volume_survives_its_text(
            root: [u8; 32], salt: [u8; 32], blocks in 1..=VolumeRef::MAX_DATA_BLOCKS,
        ) {
            let volume = VolumeRef::new(root, salt, blocks).unwrap();
            prop_assert_eq!(volume.to_string().parse(), Ok(volume));
        }
    }
}

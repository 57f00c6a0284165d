//! The superblock that `veritysetup` writes before a hash tree.
//!
//! ```text
//!   0  8  "verity\0\0"          64  4  data block size, 4096
//!   8  4  version, 1            68  4  hash block size, 4096
//!  12  4  hash type, 1          72  8  number of data blocks
//!  16 16  UUID                  80  2  salt length, 32        82 6 zeros
//!  32 32  "sha256", zeros       88 256 salt, zeros           344 168 zeros
//! ```
//!
//! Integers are little-endian (cryptsetup, `lib/verity/verity.c`). Nothing here is authenticated:
//! it is written for other tools and for people, and no part of Cloister takes a parameter from it.

use crate::{BLOCK_BYTES, Guid, VolumeRef};

/// Bytes of a superblock; the tree starts one block after it.
pub const SUPERBLOCK_BYTES: usize = 512;

/// A superblock of the one form that Cloister writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Identifies the tree to people; covered by nothing.
    pub uuid: Guid,
    /// The salt.
    pub salt: [u8; 32],
    /// Number of data blocks.
    pub data_blocks: u64,
}

/// Why bytes are no superblock that Cloister would write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Fewer than 512 bytes.
    #[error("a superblock has 512 bytes, not {0}")]
    Short(usize),
    /// Does not start with `verity`.
    #[error("no verity superblock")]
    Signature,
    /// A field with another value: the offset tells which.
    #[error("superblock field `{field}` does not hold the one accepted value, {accepted}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it must hold.
        accepted: &'static str,
    },
    /// No data block, or more than a volume can have.
    #[error("the superblock's number of data blocks, {0}, is impossible")]
    DataBlocks(u64),
    /// A byte that must be zero is not.
    #[error("superblock byte {0} is not zero")]
    Padding(usize),
}

impl Superblock {
    /// The 512 bytes as they stand on the disk.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, b"verity\0\0");
        put(8, &1u32.to_le_bytes());
        put(12, &1u32.to_le_bytes());
        put(16, self.uuid.as_bytes());
        put(32, b"sha256");
        put(64, &(BLOCK_BYTES as u32).to_le_bytes());
        put(68, &(BLOCK_BYTES as u32).to_le_bytes());
        put(72, &self.data_blocks.to_le_bytes());
        put(80, &32u16.to_le_bytes());
        put(88, &self.salt);
        bytes
    }

    /// Accepts exactly what [`Self::encode`] gives; what follows the 512 bytes is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let bytes = bytes
            .get(..SUPERBLOCK_BYTES)
            .ok_or(SuperblockError::Short(bytes.len()))?;
        if &bytes[..8] != b"verity\0\0" {
            return Err(SuperblockError::Signature);
        }
        let superblock = Self {
            uuid: Guid::from_bytes(array(&bytes[16..32])),
            salt: array(&bytes[88..120]),
            data_blocks: u64::from_le_bytes(array(&bytes[72..80])),
        };
        if !(1..=VolumeRef::MAX_DATA_BLOCKS).contains(&superblock.data_blocks) {
            return Err(SuperblockError::DataBlocks(superblock.data_blocks));
        }
        let canonical = superblock.encode();
        for (field, accepted, range) in [
            ("version", "1", 8..12),
            ("hash type", "1", 12..16),
            ("algorithm", "sha256", 32..64),
            ("data block size", "4096", 64..68),
            ("hash block size", "4096", 68..72),
            ("salt length", "32", 80..82),
        ] {
            if bytes[range.clone()] != canonical[range] {
                return Err(SuperblockError::Field { field, accepted });
            }
        }
        match bytes
            .iter()
            .zip(&canonical)
            .position(|(found, accepted)| found != accepted)
        {
            Some(at) => Err(SuperblockError::Padding(at)),
            None => Ok(superblock),
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Superblock {
        Superblock {
            uuid: Guid::from_bytes([0x11; 16]),
            salt: [0x22; 32],
            data_blocks: 5,
        }
    }

    #[test]
    fn each_fault_has_its_own_refusal() {
        use SuperblockError as E;
        let field = |field, accepted| E::Field { field, accepted };
        let cases = [
            (0, E::Signature),
            (8, field("version", "1")),
            (12, field("hash type", "1")),
            (32, field("algorithm", "sha256")),
            (40, field("algorithm", "sha256")),
            (65, field("data block size", "4096")),
            (69, field("hash block size", "4096")),
            (80, field("salt length", "32")),
            (79, E::DataBlocks(5 | 0xff << 56)),
            (82, E::Padding(82)),
            (120, E::Padding(120)),
            (511, E::Padding(511)),
        ];
        for (at, error) in cases {
            let mut bytes = example().encode();
            bytes[at] ^= 0xff;
            assert_eq!(Superblock::parse(&bytes), Err(error), "byte {at}");
        }
        assert_eq!(
            Superblock::parse(&example().encode()[..511]),
            Err(E::Short(511))
        );
        let none = Superblock {
            data_blocks: 0,
            ..example()
        };
        assert_eq!(Superblock::parse(&none.encode()), Err(E::DataBlocks(0)));
    }

    proptest! {
        #[test]
        fn what_parses_is_canonical(
            changes in prop::collection::vec((0usize..512, any::<u8>()), 0..4),
        ) {
            let mut bytes = example().encode();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(superblock) = Superblock::parse(&bytes) {
                prop_assert_eq!(superblock.encode(), bytes);
            }
        }
    }
}

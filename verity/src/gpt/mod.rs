//! GUID partition tables (UEFI 2.10, chapter 5), in the one form that Cloister writes and accepts.
//!
//! ```text
//! sector 0        protective MBR: one entry of type 0xEE from sector 1, signature 55 AA
//! sector 1        header: "EFI PART", revision 1.0, 92 bytes, CRC-32 over itself and the entries
//! sectors 2–33    128 entries of 128 bytes: type, unique GUID, first and last sector, flags, name
//!    …            partitions, aligned to 1 MiB
//! last 33         the entries again, then the backup header in the very last sector
//! ```
//!
//! Sectors have 512 bytes. Reading looks at the first 34 sectors only and never at the backup.

mod read;
mod write;

pub use read::{GptError, Table};
pub use write::{Layout, LayoutError, Partition, PartitionSpec, Source, WriteError, write_image};

use crate::Guid;

/// Bytes in a sector.
pub const SECTOR_BYTES: u64 = 512;

/// Bytes at the start of a disk that hold the protective MBR, the header and the entries.
pub const TABLE_BYTES: usize = 34 * 512;

const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
const ENTRY_COUNT: usize = 128;
const ENTRIES_SECTORS: u64 = 32;
const FIRST_USABLE: u64 = 34;

/// A partition as its table describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the entry, from 1, as the kernel numbers partitions.
    pub number: u32,
    /// What the partition is for.
    pub type_guid: Guid,
    /// Which partition it is.
    pub unique_guid: Guid,
    /// First sector.
    pub first: u64,
    /// Last sector, itself included.
    pub last: u64,
    /// Attribute flags.
    pub attributes: u64,
    /// Name: for people only, nothing is found by it.
    pub name: String,
}

impl Entry {
    /// Place of the partition on its disk, in bytes.
    pub const fn offset_bytes(&self) -> u64 {
        self.first * SECTOR_BYTES
    }

    /// Size of the partition in sectors.
    pub const fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Size of the partition in bytes.
    pub const fn size_bytes(&self) -> u64 {
        self.sectors() * SECTOR_BYTES
    }
}

/// CRC-32 as in ISO 3309: reflected, polynomial 0xEDB88320.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc32_gives_the_known_check_value() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}

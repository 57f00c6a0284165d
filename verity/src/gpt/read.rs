//! Reading a partition table that anyone may have written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{ENTRY_BYTES, ENTRY_COUNT, Entry, FIRST_USABLE, HEADER_BYTES, TABLE_BYTES, crc32};
use crate::Guid;

/// A partition table whose form and checksums hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    disk_guid: Guid,
    backup: u64,
    entries: Vec<Entry>,
}

/// Why a disk has no partition table that Cloister accepts.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// The disk cannot be read.
    #[error("cannot read the partition table")]
    Read(#[source] io::Error),
    /// Fewer than 34 sectors.
    #[error("too short for a partition table: {0} bytes")]
    Short(usize),
    /// No protective MBR.
    #[error("no protective MBR in sector 0")]
    ProtectiveMbr,
    /// No `EFI PART` in sector 1.
    #[error("no GPT header in sector 1")]
    Signature,
    /// A header of another form: the field and what it holds.
    #[error("GPT header field `{field}` is {found}, and only {expected} is accepted")]
    Header {
        /// Name of the field in the specification.
        field: &'static str,
        /// The one accepted value.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// The header's checksum does not hold.
    #[error("the GPT header's checksum does not hold")]
    HeaderChecksum,
    /// The entries' checksum does not hold.
    #[error("the GPT entries' checksum does not hold")]
    EntriesChecksum,
    /// The usable range is empty or reaches into the tables.
    #[error("the GPT header's usable range is impossible")]
    UsableRange,
    /// A partition that is empty, or outside the usable range.
    #[error("partition {0} does not lie within the usable range")]
    PartitionRange(u32),
    /// Two partitions share sectors.
    #[error("partitions {0} and {1} overlap")]
    Overlap(u32, u32),
}

impl Table {
    /// Reads the table of the disk or disk image `disk`.
    pub fn read(disk: &File) -> Result<Self, GptError> {
        let mut start = vec![0; TABLE_BYTES];
        match disk.read_exact_at(&mut start, 0) {
            Ok(()) => Self::parse(&start),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let length = disk.metadata().map_err(GptError::Read)?.len();
                Err(GptError::Short(usize::try_from(length).unwrap_or_default()))
            }
            Err(error) => Err(GptError::Read(error)),
        }
    }

    /// Parses the first [`TABLE_BYTES`] of a disk; what follows them is not looked at.
    pub fn parse(start: &[u8]) -> Result<Self, GptError> {
        if start.len() < TABLE_BYTES {
            return Err(GptError::Short(start.len()));
        }
        check_protective_mbr(&start[..512])?;
        let entries = &start[1024..TABLE_BYTES];
        let header = Header::parse(&start[512..1024], entries)?;
        let entries = parse_entries(entries, &header)?;
        Ok(Self {
            disk_guid: header.disk_guid,
            backup: header.backup,
            entries,
        })
    }

    /// The disk's own GUID.
    pub const fn disk_guid(&self) -> Guid {
        self.disk_guid
    }

    /// The sector in which the backup header is said to stand.
    pub const fn backup_sector(&self) -> u64 {
        self.backup
    }

    /// The partitions in the order of their entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

fn check_protective_mbr(mbr: &[u8]) -> Result<(), GptError> {
    let first = &mbr[446..462];
    if mbr[510..] != [0x55, 0xaa] || first[4] != 0xee || u32_at(first, 8) != 1 {
        return Err(GptError::ProtectiveMbr);
    }
    Ok(())
}

struct Header {
    disk_guid: Guid,
    backup: u64,
    first_usable: u64,
    last_usable: u64,
}

impl Header {
    fn parse(sector: &[u8], entries: &[u8]) -> Result<Self, GptError> {
        if &sector[..8] != b"EFI PART" {
            return Err(GptError::Signature);
        }
        for (field, found, expected) in [
            ("Revision", u64::from(u32_at(sector, 8)), 0x0001_0000),
            (
                "HeaderSize",
                u64::from(u32_at(sector, 12)),
                HEADER_BYTES as u64,
            ),
            ("Reserved", u64::from(u32_at(sector, 20)), 0),
            ("MyLBA", u64_at(sector, 24), 1),
            ("PartitionEntryLBA", u64_at(sector, 72), 2),
            (
                "NumberOfPartitionEntries",
                u64::from(u32_at(sector, 80)),
                ENTRY_COUNT as u64,
            ),
            (
                "SizeOfPartitionEntry",
                u64::from(u32_at(sector, 84)),
                ENTRY_BYTES as u64,
            ),
        ] {
            if found != expected {
                return Err(GptError::Header {
                    field,
                    expected,
                    found,
                });
            }
        }
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&sector[..HEADER_BYTES]);
        header[16..20].fill(0);
        if crc32(&header) != u32_at(sector, 16) {
            return Err(GptError::HeaderChecksum);
        }
        if crc32(entries) != u32_at(sector, 88) {
            return Err(GptError::EntriesChecksum);
        }
        let (first_usable, last_usable) = (u64_at(sector, 40), u64_at(sector, 48));
        let largest = (i64::MAX as u64) / super::SECTOR_BYTES;
        if first_usable < FIRST_USABLE || last_usable < first_usable || last_usable > largest {
            return Err(GptError::UsableRange);
        }
        Ok(Self {
            disk_guid: guid_at(sector, 56),
            backup: u64_at(sector, 32),
            first_usable,
            last_usable,
        })
    }
}

fn parse_entries(bytes: &[u8], header: &Header) -> Result<Vec<Entry>, GptError> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, raw) in (1..).zip(bytes.chunks_exact(ENTRY_BYTES)) {
        let type_guid = guid_at(raw, 0);
        if type_guid == Guid::NIL {
            continue;
        }
        let entry = Entry {
            number,
            type_guid,
            unique_guid: guid_at(raw, 16),
            first: u64_at(raw, 32),
            last: u64_at(raw, 40),
            attributes: u64_at(raw, 48),
            name: name_from(&raw[56..]),
        };
        let in_order = entry.first <= entry.last;
        if !in_order || entry.first < header.first_usable || entry.last > header.last_usable {
            return Err(GptError::PartitionRange(number));
        }
        entries.push(entry);
    }
    check_overlap(&entries)?;
    Ok(entries)
}

fn check_overlap(entries: &[Entry]) -> Result<(), GptError> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.first);
    for pair in sorted.windows(2) {
        if pair[1].first <= pair[0].last {
            return Err(GptError::Overlap(pair[0].number, pair[1].number));
        }
    }
    Ok(())
}

/// The name up to its first NUL; units that are no UTF-16 become replacement characters.
fn name_from(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let units = units.take_while(|&unit| unit != 0);
    char::decode_utf16(units)
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    let mut field = [0; 16];
    field.copy_from_slice(&bytes[at..at + 16]);
    Guid::from_disk(field)
}

//! Writing partition tables and whole disk images: the same input gives the same bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{
    ENTRIES_SECTORS, ENTRY_BYTES, ENTRY_COUNT, Entry, FIRST_USABLE, HEADER_BYTES, SECTOR_BYTES,
    crc32,
};
use crate::Guid;

/// Partitions start at multiples of this: 1 MiB.
const ALIGNMENT_SECTORS: u64 = 2048;

/// Largest image: 8 EiB would overflow file offsets, 2^50 bytes are enough.
const MAX_IMAGE_SECTORS: u64 = (1 << 50) / SECTOR_BYTES;

/// What is to become a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSpec {
    /// What the partition is for.
    pub type_guid: Guid,
    /// Which partition it is.
    pub unique_guid: Guid,
    /// Name, at most 36 UTF-16 units.
    pub name: String,
    /// Attribute flags.
    pub attributes: u64,
    /// Room in bytes, rounded up to whole sectors.
    pub size_bytes: u64,
}

/// Where everything stands on a disk: decided before a byte is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    disk_guid: Guid,
    entries: Vec<Entry>,
    image_sectors: u64,
}

/// Why partitions cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More than 128 partitions.
    #[error("a partition table holds 128 partitions, not {0}")]
    TooMany(usize),
    /// A type or unique GUID of zeros: partition number.
    #[error("partition {0} has a GUID of zeros")]
    NilGuid(u32),
    /// Two partitions with one unique GUID.
    #[error("two partitions have the unique GUID {0}")]
    DuplicateGuid(Guid),
    /// A partition without a byte.
    #[error("partition {0} is empty")]
    Empty(u32),
    /// A name that does not fit.
    #[error("the name of partition {0} is longer than 36 UTF-16 units or holds a NUL")]
    Name(u32),
    /// More than 2^50 bytes together.
    #[error("the partitions need more than 1 PiB")]
    TooLarge,
}

impl Layout {
    /// Lays the partitions out in their order, each at a multiple of 1 MiB.
    pub fn new(disk_guid: Guid, partitions: &[PartitionSpec]) -> Result<Self, LayoutError> {
        if partitions.len() > ENTRY_COUNT {
            return Err(LayoutError::TooMany(partitions.len()));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(partitions.len());
        let mut next = FIRST_USABLE;
        for (number, partition) in (1..).zip(partitions) {
            check_spec(number, partition, &entries)?;
            let sectors = partition.size_bytes.div_ceil(SECTOR_BYTES);
            let first = next.next_multiple_of(ALIGNMENT_SECTORS);
            next = first.checked_add(sectors).ok_or(LayoutError::TooLarge)?;
            if next > MAX_IMAGE_SECTORS {
                return Err(LayoutError::TooLarge);
            }
            entries.push(Entry {
                number,
                type_guid: partition.type_guid,
                unique_guid: partition.unique_guid,
                first,
                last: next - 1,
                attributes: partition.attributes,
                name: partition.name.clone(),
            });
        }
        let image_sectors = (next + ENTRIES_SECTORS + 1).next_multiple_of(ALIGNMENT_SECTORS);
        Ok(Self {
            disk_guid,
            entries,
            image_sectors,
        })
    }

    /// The partitions with their places.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Size of the whole disk, a multiple of 1 MiB.
    pub const fn image_bytes(&self) -> u64 {
        self.image_sectors * SECTOR_BYTES
    }

    /// The disk's first [`super::TABLE_BYTES`]: protective MBR, header and entries.
    pub fn encode_start(&self) -> Vec<u8> {
        let entries = self.encode_entries();
        let mut start = self.encode_mbr().to_vec();
        start.extend(self.encode_header(1, self.image_sectors - 1, 2, &entries));
        start.extend(entries);
        start
    }

    /// Sets the image's length and writes the protective MBR and both tables; no partition content.
    pub fn write_tables(&self, image: &File) -> io::Result<()> {
        let last = self.image_sectors - 1;
        let backup_entries = last - ENTRIES_SECTORS;
        let mut end = self.encode_entries();
        end.extend(self.encode_header(last, 1, backup_entries, &end));
        image.set_len(self.image_bytes())?;
        image.write_all_at(&self.encode_start(), 0)?;
        image.write_all_at(&end, backup_entries * SECTOR_BYTES)
    }

    fn encode_mbr(&self) -> [u8; 512] {
        let mut mbr = [0; 512];
        let sectors = u32::try_from(self.image_sectors - 1).unwrap_or(u32::MAX);
        mbr[446 + 1..446 + 4].copy_from_slice(&[0x00, 0x02, 0x00]); // CHS of sector 1
        mbr[446 + 4] = 0xee;
        mbr[446 + 5..446 + 8].copy_from_slice(&[0xff, 0xff, 0xff]);
        mbr[446 + 8..446 + 12].copy_from_slice(&1u32.to_le_bytes());
        mbr[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        mbr
    }

    fn encode_header(&self, own: u64, other: u64, entries_at: u64, entries: &[u8]) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"EFI PART");
        put(8, &0x0001_0000u32.to_le_bytes());
        put(12, &(HEADER_BYTES as u32).to_le_bytes());
        put(24, &own.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &FIRST_USABLE.to_le_bytes());
        put(
            48,
            &(self.image_sectors - ENTRIES_SECTORS - 2).to_le_bytes(),
        );
        put(56, &self.disk_guid.to_disk());
        put(72, &entries_at.to_le_bytes());
        put(80, &(ENTRY_COUNT as u32).to_le_bytes());
        put(84, &(ENTRY_BYTES as u32).to_le_bytes());
        put(88, &crc32(entries).to_le_bytes());
        let checksum = crc32(&header[..HEADER_BYTES]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    fn encode_entries(&self) -> Vec<u8> {
        let mut bytes = vec![0; ENTRY_COUNT * ENTRY_BYTES];
        for (raw, entry) in bytes.chunks_exact_mut(ENTRY_BYTES).zip(&self.entries) {
            raw[..16].copy_from_slice(&entry.type_guid.to_disk());
            raw[16..32].copy_from_slice(&entry.unique_guid.to_disk());
            raw[32..40].copy_from_slice(&entry.first.to_le_bytes());
            raw[40..48].copy_from_slice(&entry.last.to_le_bytes());
            raw[48..56].copy_from_slice(&entry.attributes.to_le_bytes());
            for (unit, raw) in entry.name.encode_utf16().zip(raw[56..].chunks_exact_mut(2)) {
                raw.copy_from_slice(&unit.to_le_bytes());
            }
        }
        bytes
    }
}

fn check_spec(number: u32, spec: &PartitionSpec, before: &[Entry]) -> Result<(), LayoutError> {
    if spec.type_guid == Guid::NIL || spec.unique_guid == Guid::NIL {
        return Err(LayoutError::NilGuid(number));
    }
    if before
        .iter()
        .any(|entry| entry.unique_guid == spec.unique_guid)
    {
        return Err(LayoutError::DuplicateGuid(spec.unique_guid));
    }
    if spec.size_bytes == 0 {
        return Err(LayoutError::Empty(number));
    }
    if spec.name.encode_utf16().count() > 36 || spec.name.contains('\0') {
        return Err(LayoutError::Name(number));
    }
    Ok(())
}

/// Where a partition's content comes from; what it leaves of the partition is zeros.
#[derive(Debug, Clone)]
pub enum Source {
    /// Nothing: the partition stays empty.
    Zeros,
    /// These bytes.
    Bytes(Vec<u8>),
    /// The content of this file, copied so that holes stay holes.
    File(PathBuf),
}

/// A partition with its content; `spec.size_bytes` is its room.
#[derive(Debug, Clone)]
pub struct Partition {
    /// What the table says.
    pub spec: PartitionSpec,
    /// What the partition holds.
    pub source: Source,
}

/// Why an image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The partitions cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A source file cannot be read.
    #[error("cannot read {path}")]
    Source {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The content does not fit.
    #[error("partition {number} holds {room} bytes, its content has {found}")]
    DoesNotFit {
        /// Number of the partition.
        number: u32,
        /// Bytes in the partition.
        room: u64,
        /// Bytes in its content.
        found: u64,
    },
    /// The image cannot be written.
    #[error("cannot write the image")]
    Write(#[from] io::Error),
}

/// Writes a whole disk image into `image`, which must be empty, and says where everything stands.
pub fn write_image(
    image: &File,
    disk_guid: Guid,
    partitions: &[Partition],
) -> Result<Layout, WriteError> {
    let specs: Vec<PartitionSpec> = partitions.iter().map(|p| p.spec.clone()).collect();
    let layout = Layout::new(disk_guid, &specs)?;
    image.set_len(layout.image_bytes())?;
    for (entry, partition) in layout.entries().iter().zip(partitions) {
        write_content(image, entry, &partition.source)?;
    }
    layout.write_tables(image)?;
    Ok(layout)
}

fn write_content(image: &File, entry: &Entry, source: &Source) -> Result<(), WriteError> {
    match source {
        Source::Zeros => Ok(()),
        Source::Bytes(bytes) => {
            check_fits(entry, bytes.len() as u64)?;
            Ok(image.write_all_at(bytes, entry.offset_bytes())?)
        }
        Source::File(path) => copy_file(image, entry, path),
    }
}

fn copy_file(image: &File, entry: &Entry, path: &Path) -> Result<(), WriteError> {
    let unreadable = |source| WriteError::Source {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut buffer = vec![0; 1 << 20];
    let mut copied = 0;
    check_fits(entry, file.metadata().map_err(unreadable)?.len())?;
    loop {
        let count = file.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            return Ok(());
        }
        check_fits(entry, copied + count as u64)?; // the file may have grown
        write_sparse(image, &buffer[..count], entry.offset_bytes() + copied)?;
        copied += count as u64;
    }
}

fn check_fits(entry: &Entry, found: u64) -> Result<(), WriteError> {
    let room = entry.size_bytes();
    if found > room {
        return Err(WriteError::DoesNotFit {
            number: entry.number,
            room,
            found,
        });
    }
    Ok(())
}

/// Writes all but runs of zeros, which a new file has anyway.
fn write_sparse(image: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    const RUN_BYTES: usize = 64 << 10;
    for (index, run) in bytes.chunks(RUN_BYTES).enumerate() {
        if run.iter().any(|&byte| byte != 0) {
            image.write_all_at(run, offset + (index * RUN_BYTES) as u64)?;
        }
    }
    Ok(())
}

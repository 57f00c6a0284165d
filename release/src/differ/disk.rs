//! Boot disks: the partition that differs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use verity::gpt::{Entry, GptError, SECTOR_BYTES, TABLE_BYTES, Table};

use super::{Cause, Difference};
use crate::disk::{ESP_TYPE, RELEASE_TYPE, ROOT_TYPE, ROOT_VERITY_TYPE};

/// Bytes that are compared at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The entries again and the backup header, at the end of a disk.
const BACKUP_BYTES: u64 = 33 * SECTOR_BYTES;

/// What a partition of ours holds, causes before what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// The root file system.
    Root,
    /// The EFI system partition.
    Esp,
    /// The root's hash tree.
    HashTree,
    /// Something else.
    Other,
}

/// Where two disks differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nowhere that counts: a release partition may hold any bundle.
    Nowhere,
    /// In a partition table, or outside of all partitions.
    Table(Difference),
    /// In a partition.
    Partition {
        /// What it holds.
        content: Content,
        /// Its entry on the published disk.
        theirs: Entry,
        /// Its entry on the rebuilt disk.
        ours: Entry,
        /// First differing byte in it.
        at: u64,
    },
}

/// Why two disks are not compared.
#[derive(Debug, thiserror::Error)]
pub enum DiskCompareError {
    /// A disk cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The disk.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A disk has no partition table that we accept.
    #[error("{path}")]
    Table {
        /// The disk.
        path: PathBuf,
        /// What is wrong with it.
        source: GptError,
    },
}

/// The first place at which two disks differ, partition by partition.
pub fn compare(theirs: &Path, ours: &Path) -> Result<Found, DiskCompareError> {
    let (left, right) = (Disk::open(theirs)?, Disk::open(ours)?);
    let (before, after) = (left.table.entries(), right.table.entries());
    // The contents first: ids and sizes in the table follow from them. And of these the root: its
    // hash stands in the UKI.
    let mut found: Option<(Content, usize, u64)> = None;
    for (index, (one, other)) in before.iter().zip(after).enumerate() {
        if one.type_guid != other.type_guid || one.type_guid.to_string() == RELEASE_TYPE {
            continue;
        }
        if found.is_none_or(|(earlier, ..)| content(one) < earlier)
            && let Some(at) = left.difference(one, &right, other)?
        {
            found = Some((content(one), index, at));
        }
    }
    if let Some((content, index, at)) = found {
        return Ok(Found::Partition {
            content,
            theirs: before[index].clone(),
            ours: after[index].clone(),
            at,
        });
    }
    let shown = |entries: &[Entry]| {
        let entries = entries.iter().map(|entry| {
            let (first, last) = (entry.first, entry.last);
            let (kind, id) = (entry.type_guid, entry.unique_guid);
            let flags = entry.attributes;
            format!(
                "{} {kind} {id} sectors {first}-{last} flags {flags:#x}",
                entry.name
            )
        });
        entries.collect::<Vec<_>>()
    };
    let (before, after) = (shown(before), shown(after));
    if before.len() != after.len() {
        let (left, right) = (before.len().to_string(), after.len().to_string());
        let found = Difference::new("number of partitions", left, right, Cause::Missing);
        return Ok(Found::Table(found.within("partition table")));
    }
    let mut pairs = before.into_iter().zip(after).enumerate();
    Ok(match pairs.find(|(_, (one, other))| one != other) {
        Some((index, (one, other))) => {
            let place = format!("partition {}", index + 1);
            let found = Difference::new(place, one, other, Cause::Content);
            Found::Table(found.within("partition table"))
        }
        None if left.table != right.table => {
            let shown = |disk: &Disk| {
                let (id, backup) = (disk.table.disk_guid(), disk.table.backup_sector());
                format!("{id}, backup in sector {backup}")
            };
            let (one, other) = (shown(&left), shown(&right));
            let found = Difference::new("id of the disk", one, other, Cause::Content);
            Found::Table(found.within("partition table"))
        }
        None => match left.outside(&right)? {
            Some(found) => Found::Table(found),
            None => Found::Nowhere,
        },
    })
}

fn content(entry: &Entry) -> Content {
    match entry.type_guid.to_string().as_str() {
        ESP_TYPE => Content::Esp,
        ROOT_TYPE => Content::Root,
        ROOT_VERITY_TYPE => Content::HashTree,
        _ => Content::Other,
    }
}

struct Disk {
    path: PathBuf,
    file: File,
    table: Table,
}

impl Disk {
    fn open(path: &Path) -> Result<Self, DiskCompareError> {
        let unreadable = |source| DiskCompareError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let table = Table::read(&file).map_err(|source| DiskCompareError::Table {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            table,
        })
    }

    /// The first byte outside of all partitions at which two disks differ whose partitions lie
    /// in the same places: in the tables, between partitions, behind the last one.
    fn outside(&self, other: &Self) -> Result<Option<Difference>, DiskCompareError> {
        let (bytes, other_bytes) = (self.bytes()?, other.bytes()?);
        if bytes != other_bytes {
            let (one, other) = (format!("{bytes} bytes"), format!("{other_bytes} bytes"));
            return Ok(Some(Difference::new("size", one, other, Cause::Content)));
        }
        let mut entries: Vec<&Entry> = self.table.entries().iter().collect();
        entries.sort_by_key(|entry| entry.first);
        let mut start = 0;
        let ranges = entries.iter().map(|entry| {
            let offset = entry.offset_bytes();
            (offset, offset.saturating_add(entry.size_bytes()))
        });
        for (end, next) in ranges.chain([(bytes, bytes)]) {
            let end = end.min(bytes);
            if let Some(at) = self.range(start, other, start, end.saturating_sub(start))? {
                let at = start + at;
                let place = match at {
                    _ if at < TABLE_BYTES as u64 => "partition table",
                    _ if at >= bytes.saturating_sub(BACKUP_BYTES) => {
                        "backup of the partition table"
                    }
                    _ => "outside of all partitions",
                };
                let shown = |disk: &Self| Ok(hex::encode(disk.read(at, 1)?));
                let (one, other) = (shown(self)?, shown(other)?);
                let found = Difference::new(format!("byte {at}"), one, other, Cause::Content);
                return Ok(Some(found.within(place)));
            }
            start = start.max(next);
        }
        Ok(None)
    }

    fn bytes(&self) -> Result<u64, DiskCompareError> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|source| DiskCompareError::Read {
            path: self.path.clone(),
            source,
        })?;
        Ok(metadata.len())
    }

    /// The first byte at which two partitions differ.
    fn difference(
        &self,
        entry: &Entry,
        other: &Self,
        other_entry: &Entry,
    ) -> Result<Option<u64>, DiskCompareError> {
        let (bytes, other_bytes) = (entry.size_bytes(), other_entry.size_bytes());
        let common = bytes.min(other_bytes);
        let (start, other_start) = (entry.offset_bytes(), other_entry.offset_bytes());
        let found = self.range(start, other, other_start, common)?;
        Ok(found.or((bytes != other_bytes).then_some(common)))
    }

    /// The first of so many bytes at which two disks differ.
    fn range(
        &self,
        start: u64,
        other: &Self,
        other_start: u64,
        bytes: u64,
    ) -> Result<Option<u64>, DiskCompareError> {
        let mut at = 0;
        while at < bytes {
            let length = (bytes - at).min(CHUNK_BYTES as u64) as usize;
            let left = self.read(start + at, length)?;
            let right = other.read(other_start + at, length)?;
            if left != right {
                let within = super::first_difference(&left, &right) as u64;
                return Ok(Some(at + within));
            }
            at += length as u64;
        }
        Ok(None)
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, DiskCompareError> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|source| DiskCompareError::Read {
            path: self.path.clone(),
            source,
        })?;
        Ok(bytes)
    }
}

/// Copies a partition's bytes into a file of their own.
pub fn copy_partition(disk: &Path, entry: &Entry, to: &Path) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut from = File::open(disk)?;
    from.seek(SeekFrom::Start(entry.offset_bytes()))?;
    let mut to = File::create(to)?;
    let copied = io::copy(&mut from.take(entry.size_bytes()), &mut to)?;
    match copied == entry.size_bytes() {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

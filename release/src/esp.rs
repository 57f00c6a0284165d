//! The EFI system partition: FAT32 with one file, the same bytes for the same UKI.

use std::io::{self, Cursor, Read, Write};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time};

/// Where firmware looks for a program to boot (UEFI 2.10, 3.5.1.1).
const FOLDERS: [&str; 2] = ["EFI", "BOOT"];
const FILE: &str = "BOOTX64.EFI";
/// Smallest partition: FAT32 needs 65,525 clusters, here of one sector each.
const LEAST_BYTES: usize = 36 << 20;
const SECTOR_BYTES: usize = 512;
const VOLUME_ID: u32 = 0x0c10_157e;

/// A clock that stands still.
#[derive(Debug)]
struct NoTime;

impl fatfs::TimeProvider for NoTime {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

/// Reproducibility: no time of day in the file system.
static NO_TIME: NoTime = NoTime;

/// The contents of an EFI system partition that boots `uki`.
pub(crate) fn build(uki: &[u8]) -> io::Result<Vec<u8>> {
    // One eighth more than the file holds both tables (8 bytes for each sector) and the folders.
    let bytes = (uki.len() + uki.len() / 8 + (1 << 20)).next_multiple_of(1 << 20);
    let mut disk = vec![0; bytes.max(LEAST_BYTES)];
    let sectors = u32::try_from(disk.len() / SECTOR_BYTES).map_err(io::Error::other)?;
    let format = FormatVolumeOptions::new()
        .bytes_per_sector(SECTOR_BYTES as u16)
        .bytes_per_cluster(SECTOR_BYTES as u32)
        .total_sectors(sectors)
        .fat_type(FatType::Fat32)
        .volume_id(VOLUME_ID)
        .volume_label(*b"CLOISTER   ");
    fatfs::format_volume(Cursor::new(&mut disk[..]), format)?;
    let options = FsOptions::new().time_provider(&NO_TIME);
    let files = FileSystem::new(Cursor::new(&mut disk[..]), options)?;
    {
        let mut folder = files.root_dir();
        for name in FOLDERS {
            folder = folder.create_dir(name)?;
        }
        let mut file = folder.create_file(FILE)?;
        file.write_all(uki)?;
        file.flush()?;
    }
    files.unmount()?;
    Ok(disk)
}

/// The program that a partition boots, if it has one of at most `limit` bytes.
pub(crate) fn read(mut partition: Vec<u8>, limit: u64) -> io::Result<Vec<u8>> {
    let files = FileSystem::new(Cursor::new(&mut partition[..]), FsOptions::new())?;
    let path = format!("{}/{}/{FILE}", FOLDERS[0], FOLDERS[1]);
    let mut contents = Vec::new();
    files
        .root_dir()
        .open_file(&path)?
        .take(limit)
        .read_to_end(&mut contents)?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_found_again_and_the_bytes_are_the_same_each_time() {
        let uki: Vec<u8> = (0..300_000u32).map(|n| (n / 7) as u8).collect();
        let partition = build(&uki).unwrap();
        assert_eq!(partition.len(), LEAST_BYTES);
        assert_eq!(build(&uki).unwrap(), partition);
        assert_eq!(&partition[82..90], b"FAT32   ");
        assert_eq!(&partition[67..71], VOLUME_ID.to_le_bytes());
        assert_eq!(read(partition, 1 << 20).unwrap(), uki);
    }

    #[test]
    fn a_large_file_makes_a_larger_partition() {
        let uki = vec![1; 70 << 20];
        let partition = build(&uki).unwrap();
        assert!(partition.len() > uki.len());
        assert_eq!(read(partition, 1 << 30).unwrap().len(), uki.len());
    }
}

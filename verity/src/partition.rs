//! Finding a partition by its unique GUID, among all disks of a machine.
//!
//! Every whole disk's table is read by us (the kernel's events carry no GUIDs), and the partition
//! that the kernel made of the entry must agree with it in number, place and size. A GUID that two
//! entries claim, on one disk or on two, is refused: nobody but an attacker makes a second one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::Guid;
use crate::gpt::{Entry, Table};

/// A partition that the kernel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its node, as in `/dev/vda2`.
    pub path: PathBuf,
    /// Device number, `major:minor`.
    pub number: DeviceNumber,
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
}

/// `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// Why a partition is not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The list of disks cannot be read.
    #[error("cannot list the disks in {path}")]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No partition has the GUID.
    #[error("no partition has the GUID {0}")]
    Missing(Guid),
    /// More than one partition has the GUID.
    #[error("{count} partitions claim the GUID {guid}")]
    Claimants {
        /// The GUID.
        guid: Guid,
        /// How many claim it.
        count: usize,
    },
    /// The kernel's partition is not the one that the table describes.
    #[error("{} is not the partition that the table describes", .0.display())]
    Disagrees(PathBuf),
}

/// Where to look: `/sys/block` and `/dev`, or a test's imitation of them.
#[derive(Debug, Clone)]
pub struct Finder {
    sys_block: PathBuf,
    dev: PathBuf,
}

impl Default for Finder {
    fn default() -> Self {
        Self::new("/sys/block", "/dev")
    }
}

impl Finder {
    /// A finder that looks below the given folders.
    pub fn new(sys_block: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self {
            sys_block: sys_block.into(),
            dev: dev.into(),
        }
    }

    /// The one partition whose unique GUID is `guid`.
    pub fn find(&self, guid: Guid) -> Result<BlockDevice, FindError> {
        self.only(guid, self.claims(|entry| entry.unique_guid == guid)?)
    }

    /// The one partition of the type `guid`.
    pub fn find_by_type(&self, guid: Guid) -> Result<BlockDevice, FindError> {
        self.only(guid, self.claims(|entry| entry.type_guid == guid)?)
    }

    /// As [`Self::find`], but waits up to `patience` for the disk to appear.
    pub fn wait(&self, guid: Guid, patience: Duration) -> Result<BlockDevice, FindError> {
        let end = Instant::now() + patience;
        loop {
            match self.find(guid) {
                Err(FindError::Missing(_) | FindError::Disagrees(_)) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                outcome => return outcome,
            }
        }
    }

    /// Every entry of every disk that `wanted` accepts, with its disk's name.
    fn claims(&self, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<(String, Entry)>, FindError> {
        let unlisted = |source| FindError::List {
            path: self.sys_block.clone(),
            source,
        };
        let mut claims = Vec::new();
        for disk in fs::read_dir(&self.sys_block).map_err(unlisted)? {
            let Ok(disk) = disk.map_err(unlisted)?.file_name().into_string() else {
                continue;
            };
            // A disk that cannot be read or has no acceptable table claims nothing.
            let table = File::open(self.dev.join(&disk)).ok();
            let Some(table) = table.and_then(|disk| Table::read(&disk).ok()) else {
                continue;
            };
            let entries = table.entries().iter().filter(|entry| wanted(entry));
            claims.extend(entries.map(|entry| (disk.clone(), entry.clone())));
        }
        Ok(claims)
    }

    fn only(&self, guid: Guid, claims: Vec<(String, Entry)>) -> Result<BlockDevice, FindError> {
        match &claims[..] {
            [] => Err(FindError::Missing(guid)),
            [(disk, entry)] => self.device(disk, entry),
            several => Err(FindError::Claimants {
                guid,
                count: several.len(),
            }),
        }
    }

    /// The kernel's device for an entry, checked against it.
    fn device(&self, disk: &str, entry: &Entry) -> Result<BlockDevice, FindError> {
        let disk_folder = self.sys_block.join(disk);
        let unlisted = |source| FindError::List {
            path: disk_folder.clone(),
            source,
        };
        for child in fs::read_dir(&disk_folder).map_err(unlisted)? {
            let child = child.map_err(unlisted)?;
            if attribute(&child.path(), "partition") != Some(entry.number) {
                continue;
            }
            let folder = child.path();
            let path = self.dev.join(child.file_name());
            let number = attribute::<DeviceNumber>(&folder, "dev");
            let place = (attribute(&folder, "start"), attribute(&folder, "size"));
            return match number {
                Some(number) if place == (Some(entry.first), Some(entry.sectors())) => {
                    Ok(BlockDevice {
                        path,
                        number,
                        sectors: entry.sectors(),
                    })
                }
                _ => Err(FindError::Disagrees(path)),
            };
        }
        Err(FindError::Disagrees(disk_folder))
    }
}

impl FromStr for DeviceNumber {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self {
            major: major.parse()?,
            minor: minor.parse()?,
        })
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

fn attribute<T: FromStr>(folder: &Path, name: &str) -> Option<T> {
    fs::read_to_string(folder.join(name))
        .ok()?
        .trim()
        .parse()
        .ok()
}

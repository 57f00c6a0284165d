//! From a volume's name to a mounted file system.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::dm::DeviceError;
use crate::partition::{BlockDevice, FindError, Finder};
use crate::{BLOCK_BYTES, Guid, VolumeRef, dm, gpt, sys};

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a volume is mounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A root file system: no devices, no setuid.
    Root,
    /// Data: no devices, no setuid, nothing is executed.
    Data,
}

/// Why a volume is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// A partition is missing or claimed twice.
    #[error("cannot find the volume's {role} partition")]
    Find {
        /// `data` or `hash`.
        role: Role,
        /// Why.
        source: FindError,
    },
    /// A partition is smaller than the volume says.
    #[error("the volume's {role} partition has {found} sectors and needs {needed}")]
    TooSmall {
        /// `data` or `hash`.
        role: Role,
        /// Sectors that the volume implies.
        needed: u64,
        /// Sectors that the partition has.
        found: u64,
    },
    /// The device cannot be mapped.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The file system cannot be mounted.
    #[error("cannot mount {} on {}", device.display(), mountpoint.display())]
    Mount {
        /// The mapped device.
        device: PathBuf,
        /// Where it was to appear.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Which of a volume's two partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The file system.
    Data,
    /// The hash tree.
    Hash,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Hash => "hash",
        })
    }
}

/// Finds the volume's two partitions, maps them read-only as `/dev/mapper`'s `name` with a panic on
/// corruption, and mounts the erofs on the existing folder `mountpoint`.
pub fn map_and_mount(
    volume: &VolumeRef,
    name: &str,
    mountpoint: &Path,
    purpose: Purpose,
) -> Result<(), MapError> {
    let device = map(volume, name)?;
    mount_erofs(&device, mountpoint, purpose).map_err(|source| MapError::Mount {
        device,
        mountpoint: mountpoint.to_owned(),
        source,
    })
}

/// Finds the volume's two partitions and maps them; gives the device's node.
pub fn map(volume: &VolumeRef, name: &str) -> Result<PathBuf, MapError> {
    let hash_blocks = 1 + crate::tree::hash_blocks(volume.data_blocks());
    let data = partition(Role::Data, volume.data_guid(), volume.data_blocks())?;
    let hash = partition(Role::Hash, volume.hash_guid(), hash_blocks)?;
    Ok(dm::map(name, volume, data.number, hash.number)?)
}

fn partition(role: Role, guid: Guid, blocks: u64) -> Result<BlockDevice, MapError> {
    let found = Finder::default().wait(guid, PATIENCE);
    let found = found.map_err(|source| MapError::Find { role, source })?;
    let needed = blocks * (BLOCK_BYTES / gpt::SECTOR_BYTES);
    if found.sectors < needed {
        return Err(MapError::TooSmall {
            role,
            needed,
            found: found.sectors,
        });
    }
    Ok(found)
}

fn mount_erofs(device: &Path, mountpoint: &Path, purpose: Purpose) -> io::Result<()> {
    let flags = libc::MS_RDONLY
        | libc::MS_NODEV
        | libc::MS_NOSUID
        | match purpose {
            Purpose::Root => 0,
            Purpose::Data => libc::MS_NOEXEC,
        };
    let (source, target) = (c_path(device)?, c_path(mountpoint)?);
    sys::mount(&source, &target, c"erofs", flags, c"")
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

//! The boot disk: GPT with the EFI system partition, the root volume and the release partition.
//!
//! ```text
//! 1  EFI system        FAT32: EFI/BOOT/BOOTX64.EFI is the UKI
//! 2  root              erofs; unique GUID = first half of its root hash
//! 3  root verity       superblock and hash tree; unique GUID = second half
//! 4  release bundle    "CLOISTR1", u32 LE length, JSON; zeroes where none is attached
//! ```
//!
//! Nothing on the disk is trusted: the UKI is measured, the root is checked against the measured
//! root hash, the bundle is verified by whoever reads it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::release::{Bundle, BundleError, Kind, MAX_BUNDLE_BYTES, ReleaseError};
use verity::gpt::{Entry, GptError, Partition, PartitionSpec, Source, Table, WriteError};
use verity::{Guid, VolumeRef};

use crate::esp;
use crate::files::digest_of;

pub(crate) const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
pub(crate) const ROOT_TYPE: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
pub(crate) const ROOT_VERITY_TYPE: &str = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5";
/// Type of the partition that holds a release bundle.
pub const RELEASE_TYPE: &str = "c1015e2e-0001-4c6f-8a5e-72656c656173";
/// What a release partition begins with once a bundle is attached.
pub const RELEASE_MAGIC: &[u8; 8] = b"CLOISTR1";
/// Room for magic, length and the largest bundle.
const RELEASE_BYTES: u64 = 1 << 20;
/// Largest EFI system partition that is read back.
const MAX_ESP_BYTES: u64 = 4 << 30;

/// What stands on a boot disk.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    /// The program that is booted.
    pub uki: &'a [u8],
    /// The root volume's name.
    pub root: VolumeRef,
    /// File with the root volume's data.
    pub root_data: PathBuf,
    /// File with its superblock and hash tree.
    pub root_hashes: PathBuf,
}

/// Why a disk cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The EFI system partition cannot be made or read.
    #[error("the EFI system partition")]
    Esp(#[source] io::Error),
    /// A built-in GUID is malformed.
    #[error(transparent)]
    Guid(#[from] verity::GuidError),
    /// The image cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The disk cannot be opened, read or written.
    #[error("{path}")]
    Access {
        /// The disk image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk has no partition table that we accept.
    #[error("{path}")]
    Table {
        /// The disk image.
        path: PathBuf,
        /// What is wrong with it.
        source: GptError,
    },
    /// Not exactly one partition of a type.
    #[error("{path} has {found} partitions of type {type_guid} instead of one")]
    Partition {
        /// The disk image.
        path: PathBuf,
        /// Type looked for.
        type_guid: Guid,
        /// How many there are.
        found: usize,
    },
    /// The release partition is smaller than the bundle.
    #[error("the release partition holds {room} bytes, the bundle needs {needed}")]
    TooSmall {
        /// Bytes in the partition.
        room: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// What is to be attached is no bundle.
    #[error("the release bundle: {0}")]
    Bundle(#[from] BundleError),
    /// What is to be attached is no release in Sigstore.
    #[error("{0}")]
    Sigstore(#[from] ReleaseError),
}

/// Writes a boot disk into the empty file `image`: the same contents give the same bytes.
pub fn write(image: &File, contents: &Contents<'_>) -> Result<(), DiskError> {
    let esp = esp::build(contents.uki).map_err(DiskError::Esp)?;
    // Reproducibility: GUIDs come from the contents, not from chance.
    let identity = |label: &str| {
        let uki = Digest::sha256(contents.uki);
        Guid::from_digest(&Digest::sha256(&[label.as_bytes(), &uki.0].concat()).0)
    };
    let spec = |type_guid: &str, unique_guid, name: &str, size_bytes| {
        Ok::<_, DiskError>(PartitionSpec {
            type_guid: type_guid.parse()?,
            unique_guid,
            name: name.to_owned(),
            attributes: 0,
            size_bytes,
        })
    };
    let length = |path: &Path| match path.metadata() {
        Ok(metadata) => Ok(metadata.len()),
        Err(source) => Err(access(path)(source)),
    };
    let (data, hashes) = (&contents.root_data, &contents.root_hashes);
    let (data_bytes, hash_bytes) = (length(data)?, length(hashes)?);
    let root = contents.root;
    let partitions = [
        Partition {
            spec: spec(
                ESP_TYPE,
                identity("cloister esp v1\0"),
                "esp",
                esp.len() as u64,
            )?,
            source: Source::Bytes(esp),
        },
        Partition {
            spec: spec(ROOT_TYPE, root.data_guid(), "root", data_bytes)?,
            source: Source::File(data.clone()),
        },
        Partition {
            spec: spec(
                ROOT_VERITY_TYPE,
                root.hash_guid(),
                "root-verity",
                hash_bytes,
            )?,
            source: Source::File(hashes.clone()),
        },
        Partition {
            spec: spec(
                RELEASE_TYPE,
                identity("cloister release v1\0"),
                "release",
                RELEASE_BYTES,
            )?,
            source: Source::Zeros,
        },
    ];
    verity::gpt::write_image(image, identity("cloister disk v1\0"), &partitions)?;
    Ok(())
}

/// Writes a release bundle, of either kind, into a disk's release partition. The magic goes last: a
/// write that is interrupted leaves a partition without a bundle, never half of one.
pub fn attach(disk: &Path, bundle: &[u8]) -> Result<(), DiskError> {
    match Kind::of(bundle) {
        Some(Kind::Sigstore) => drop(cloister_sigstore::stated(bundle)?),
        _ => drop(Bundle::decode(bundle)?),
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .map_err(access(disk))?;
    let entry = partition(disk, &file, RELEASE_TYPE)?;
    let (start, room) = (entry.offset_bytes(), entry.size_bytes());
    let head = RELEASE_MAGIC.len() + 4;
    let needed = (head + bundle.len()) as u64;
    if needed > room {
        return Err(DiskError::TooSmall { room, needed });
    }
    let mut rest = (bundle.len() as u32).to_le_bytes().to_vec();
    rest.extend_from_slice(bundle);
    rest.resize(
        room.min((head + MAX_BUNDLE_BYTES) as u64) as usize - RELEASE_MAGIC.len(),
        0,
    );
    let steps = || {
        file.write_all_at(&[0; 8], start)?;
        file.sync_data()?;
        file.write_all_at(&rest, start + RELEASE_MAGIC.len() as u64)?;
        file.sync_data()?;
        file.write_all_at(RELEASE_MAGIC, start)?;
        file.sync_data()
    };
    steps().map_err(access(disk))
}

/// The bundle that is attached to a disk, if there is one.
pub fn attached(disk: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let file = File::open(disk).map_err(access(disk))?;
    let entry = partition(disk, &file, RELEASE_TYPE)?;
    let mut head = [0; 12];
    let read = |bytes: &mut [u8], at| file.read_exact_at(bytes, entry.offset_bytes() + at);
    read(&mut head, 0).map_err(access(disk))?;
    let (magic, length) = head.split_at(8);
    let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
    if magic != RELEASE_MAGIC || length > MAX_BUNDLE_BYTES {
        return Ok(None);
    }
    let mut bundle = vec![0; length];
    read(&mut bundle, 12).map_err(access(disk))?;
    Ok(Some(bundle))
}

/// The UKI on a disk's EFI system partition.
pub fn uki(disk: &Path) -> Result<Vec<u8>, DiskError> {
    let file = File::open(disk).map_err(access(disk))?;
    let entry = partition(disk, &file, ESP_TYPE)?;
    let mut bytes = vec![0; entry.size_bytes().min(MAX_ESP_BYTES) as usize];
    file.read_exact_at(&mut bytes, entry.offset_bytes())
        .map_err(access(disk))?;
    esp::read(bytes, MAX_ESP_BYTES).map_err(DiskError::Esp)
}

/// SHA-256 of a disk as it was assembled, before a bundle was attached: the release partition
/// counts as zeroes.
pub fn digest_without_bundle(disk: &Path) -> Result<Digest<32>, DiskError> {
    let file = File::open(disk).map_err(access(disk))?;
    let entry = partition(disk, &file, RELEASE_TYPE)?;
    let (start, length) = (entry.offset_bytes(), entry.size_bytes());
    let mut after = File::open(disk).map_err(access(disk))?;
    after
        .seek(SeekFrom::Start(start + length))
        .map_err(access(disk))?;
    let zeroes = io::repeat(0).take(length);
    digest_of(file.take(start).chain(zeroes).chain(after)).map_err(access(disk))
}

fn partition(path: &Path, file: &File, type_guid: &str) -> Result<Entry, DiskError> {
    let type_guid: Guid = type_guid.parse()?;
    let table = Table::read(file).map_err(|source| DiskError::Table {
        path: path.to_owned(),
        source,
    })?;
    let mut entries = table
        .entries()
        .iter()
        .filter(|entry| entry.type_guid == type_guid);
    match (entries.next(), entries.count()) {
        (Some(entry), 0) => Ok(entry.clone()),
        (first, more) => Err(DiskError::Partition {
            path: path.to_owned(),
            type_guid,
            found: more + usize::from(first.is_some()),
        }),
    }
}

fn access(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Access { path, source }
}

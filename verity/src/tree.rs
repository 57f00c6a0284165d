//! The hash tree: its shape, making it and checking it.
//!
//! ```text
//! block 0    superblock
//! block 1    top level: one block of up to 128 digests, each of a block of the level below
//!    …       …
//!    …       level 0: the digests of the data blocks
//! ```
//!
//! A digest is SHA-256 over salt and block (dm-verity format 1). The digest of the top block is the
//! root hash; a single data block needs no level, its digest is the root hash. What a level's last
//! block leaves empty is zeros.
//!
//! Work goes chunk by chunk to as many threads as there are processors; each holds 1 MiB.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use crate::superblock::Superblock;
use crate::{BLOCK_BYTES, Guid, VolumeRef, VolumeRefError};

/// Digests of 32 bytes in one hash block.
pub const FAN_OUT: u64 = 128;

/// Blocks that a thread hashes at a time: 1 MiB, whose digests fill two hash blocks.
const CHUNK_BLOCKS: u64 = 2 * FAN_OUT;
const BLOCK: usize = BLOCK_BYTES as usize;
const DIGEST: usize = 32;

/// A part of a file or of a disk, from an offset on.
#[derive(Debug, Clone, Copy)]
pub struct Area<'a> {
    /// The file.
    pub file: &'a File,
    /// Where the area starts, in bytes.
    pub offset: u64,
}

impl<'a> Area<'a> {
    /// The whole file.
    pub const fn whole(file: &'a File) -> Self {
        Self { file, offset: 0 }
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, self.offset + at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset + at)
    }

    fn after(&self, block: u64) -> Self {
        Self {
            file: self.file,
            offset: self.offset + block * BLOCK_BYTES,
        }
    }
}

/// Is told how many bytes of data have been hashed since the last call; called by many threads.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Why a tree cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The data does not consist of whole blocks.
    #[error("the data has {0} bytes, which is no multiple of 4096")]
    PartialBlock(u64),
    /// No data, or too much.
    #[error(transparent)]
    Size(#[from] VolumeRefError),
    /// The data cannot be read.
    #[error("cannot read the data")]
    ReadData(#[source] io::Error),
    /// The tree cannot be written, or read back to hash its next level.
    #[error("cannot write the hash tree")]
    WriteHash(#[source] io::Error),
}

/// Why a volume is not what its name says.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A block of data whose digest is not in the tree.
    #[error("data block {0} is corrupted")]
    Data(u64),
    /// A block of the tree whose digest is not in the level above, or not the root hash.
    #[error("hash block {block} of level {level} is corrupted")]
    Hash {
        /// Level, counted from the data.
        level: usize,
        /// Number of the block within its level.
        block: u64,
    },
    /// The data cannot be read, or ends early.
    #[error("cannot read the data")]
    ReadData(#[source] io::Error),
    /// The tree cannot be read, or ends early.
    #[error("cannot read the hash tree")]
    ReadHash(#[source] io::Error),
}

/// Writes superblock and tree for `data_bytes` of data to `hash`, bit for bit as
/// `veritysetup format` does for this salt and UUID. Without a `uuid`, one is made from the root
/// hash.
pub fn format(
    data: Area<'_>,
    data_bytes: u64,
    hash: Area<'_>,
    salt: [u8; 32],
    uuid: Option<Guid>,
    progress: Progress<'_>,
) -> Result<VolumeRef, FormatError> {
    if !data_bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(FormatError::PartialBlock(data_bytes));
    }
    let data_blocks = data_bytes / BLOCK_BYTES;
    VolumeRef::new([0; 32], salt, data_blocks)?; // refuses an impossible size before any work
    let root_hash = make(data, data_blocks, hash, &salt, progress)?;
    let superblock = Superblock {
        uuid: uuid.unwrap_or(Guid::from_digest(&root_hash)),
        salt,
        data_blocks,
    };
    let mut block = [0; BLOCK];
    block[..512].copy_from_slice(&superblock.encode());
    hash.write(&block, 0).map_err(FormatError::WriteHash)?;
    Ok(VolumeRef::new(root_hash, salt, data_blocks)?)
}

/// Checks every block of a volume against its name: tree from the top, then data. Finds the first
/// bad block.
pub fn verify(
    volume: &VolumeRef,
    data: Area<'_>,
    hash: Area<'_>,
    progress: Progress<'_>,
) -> Result<(), VerifyError> {
    let levels = levels(volume.data_blocks());
    let mut above: Option<Area<'_>> = None;
    for (number, level) in levels.iter().enumerate().rev() {
        let area = hash.after(level.first);
        let corrupt = |block| VerifyError::Hash {
            level: number,
            block,
        };
        check_level(volume, area, level.blocks, above, &|_| {})
            .map_err(|fault| fault.named(corrupt, VerifyError::ReadHash))?;
        above = Some(area);
    }
    check_level(volume, data, volume.data_blocks(), above, progress)
        .map_err(|fault| fault.named(VerifyError::Data, VerifyError::ReadData))
}

/// Number of blocks in the tree over `data_blocks` blocks, without the superblock.
pub fn hash_blocks(data_blocks: u64) -> u64 {
    levels(data_blocks).iter().map(|level| level.blocks).sum()
}

/// Bytes of superblock and tree over `data_blocks` blocks.
pub fn hash_area_bytes(data_blocks: u64) -> u64 {
    (1 + hash_blocks(data_blocks)) * BLOCK_BYTES
}

/// A level of the tree: its first block in the hash area, and how many it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    first: u64,
    blocks: u64,
}

/// The levels from the data upwards; on the disk they stand in the opposite order.
fn levels(data_blocks: u64) -> Vec<Level> {
    let mut levels = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(FAN_OUT);
        levels.push(Level { first: 0, blocks });
    }
    let mut first = 1;
    for level in levels.iter_mut().rev() {
        level.first = first;
        first += level.blocks;
    }
    levels
}

fn make(
    data: Area<'_>,
    data_blocks: u64,
    hash: Area<'_>,
    salt: &[u8; 32],
    progress: Progress<'_>,
) -> Result<[u8; 32], FormatError> {
    let mut below = (data, data_blocks);
    for (number, level) in levels(data_blocks).iter().enumerate() {
        let area = hash.after(level.first);
        let write = |first: u64, digests: &mut Vec<u8>| {
            digests.resize(digests.len().next_multiple_of(BLOCK), 0);
            area.write(digests, first * DIGEST as u64)
                .map_err(FormatError::WriteHash)
        };
        let (read_failed, progress): (fn(_) -> _, Progress<'_>) = match number {
            0 => (FormatError::ReadData, progress),
            _ => (FormatError::WriteHash, &|_| {}),
        };
        hash_level(below.0, below.1, salt, &write, &read_failed, progress)?;
        below = (area, level.blocks);
    }
    let mut top = vec![0; BLOCK];
    let read_failed = if data_blocks == 1 {
        FormatError::ReadData
    } else {
        FormatError::WriteHash
    };
    below.0.read(&mut top, 0).map_err(read_failed)?;
    Ok(salted(salt).chain_update(&top).finalize().into())
}

/// What [`check_level`] finds.
enum Fault {
    Corrupt(u64),
    ReadSelf(io::Error),
    ReadAbove(io::Error),
}

impl Fault {
    fn named(
        self,
        corrupt: impl Fn(u64) -> VerifyError,
        read_self: impl Fn(io::Error) -> VerifyError,
    ) -> VerifyError {
        match self {
            Self::Corrupt(block) => corrupt(block),
            Self::ReadSelf(error) => read_self(error),
            Self::ReadAbove(error) => VerifyError::ReadHash(error),
        }
    }
}

/// Compares the digests of a level with the level above, or its only block with the root hash.
fn check_level(
    volume: &VolumeRef,
    level: Area<'_>,
    blocks: u64,
    above: Option<Area<'_>>,
    progress: Progress<'_>,
) -> Result<(), Fault> {
    let compare = |first: u64, digests: &mut Vec<u8>| {
        let mut expected = volume.root_hash().to_vec();
        if let Some(above) = above {
            expected.resize(digests.len(), 0);
            above
                .read(&mut expected, first * DIGEST as u64)
                .map_err(Fault::ReadAbove)?;
        }
        let mut pairs = digests.chunks(DIGEST).zip(expected.chunks(DIGEST));
        match pairs.position(|(found, expected)| found != expected) {
            Some(index) => Err(Fault::Corrupt(first + index as u64)),
            None => Ok(()),
        }
    };
    hash_level(
        level,
        blocks,
        volume.salt(),
        &compare,
        &Fault::ReadSelf,
        progress,
    )
}

/// Is given the number of a chunk's first block and the digests of its blocks.
type Take<'a, E> = &'a (dyn Fn(u64, &mut Vec<u8>) -> Result<(), E> + Sync);

/// Hashes every block of a level and hands the digests of each chunk, with the number of its first
/// block, to `take`. Gives the fault of the lowest chunk: chunks are started in their order, and
/// those that have started are finished.
fn hash_level<E: Send>(
    level: Area<'_>,
    blocks: u64,
    salt: &[u8; 32],
    take: Take<'_, E>,
    read_failed: &(dyn Fn(io::Error) -> E + Sync),
    progress: Progress<'_>,
) -> Result<(), E> {
    let next_chunk = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let salted = salted(salt);
    let work = || -> Result<(), (u64, E)> {
        let mut buffer = vec![0; CHUNK_BLOCKS.min(blocks) as usize * BLOCK];
        let mut digests = Vec::with_capacity(CHUNK_BLOCKS as usize * DIGEST);
        while !stop.load(Ordering::Relaxed) {
            let first = next_chunk.fetch_add(1, Ordering::Relaxed) * CHUNK_BLOCKS;
            if first >= blocks {
                break;
            }
            let bytes = &mut buffer[..CHUNK_BLOCKS.min(blocks - first) as usize * BLOCK];
            let outcome = level.read(bytes, first * BLOCK_BYTES).map_err(read_failed);
            digests.clear();
            for block in bytes.chunks_exact(BLOCK) {
                digests.extend_from_slice(&salted.clone().chain_update(block).finalize());
            }
            if let Err(error) = outcome.and_then(|()| take(first, &mut digests)) {
                stop.store(true, Ordering::Relaxed);
                return Err((first, error));
            }
            progress(bytes.len() as u64);
        }
        Ok(())
    };
    let processors = thread::available_parallelism().map_or(1, usize::from) as u64;
    let helpers = blocks.div_ceil(CHUNK_BLOCKS).min(processors) - 1;
    let mut outcomes = thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut outcomes = vec![work()];
        for helper in helpers {
            outcomes.push(
                helper
                    .join()
                    .unwrap_or_else(|cause| panic::resume_unwind(cause)),
            );
        }
        outcomes
    });
    outcomes.sort_by_key(|outcome| outcome.as_ref().err().map_or(u64::MAX, |(first, _)| *first));
    outcomes.swap_remove(0).map_err(|(_, error)| error)
}

fn salted(salt: &[u8; 32]) -> Sha256 {
    Sha256::new_with_prefix(salt)
}

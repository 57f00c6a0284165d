//! erofs images whose files are the same: what of the file system itself differs.
//!
//! ```text
//! 1024  magic e2 e1 f5 e0, checksum u32, features u32, block size (log2) u8, …
//!       +24 u64 time of the build   +36 u32 blocks   +48 uuid (16)   +80 u32 features
//! ```
//!
//! Specification: the kernel's `fs/erofs/erofs_fs.h`, `struct erofs_super_block`.

use super::{Cause, Difference, bytes, u64_at};
use crate::pe::u32_at;

const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;

/// What of a superblock can differ between two builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Time of the build, in seconds since 1970.
    pub time_s: u64,
    /// Size in blocks.
    pub blocks: u32,
    /// Features, compatible and incompatible.
    pub features: (u32, u32),
    /// The file system's id.
    pub uuid: [u8; 16],
}

/// The superblock of an image, if it is one of erofs.
pub fn superblock(image: &[u8]) -> Option<Superblock> {
    let at = |offset| SUPERBLOCK + offset;
    if u32_at(image, at(0))? != MAGIC {
        return None;
    }
    Some(Superblock {
        time_s: u64_at(image, at(24))?,
        blocks: u32_at(image, at(36))?,
        features: (u32_at(image, at(8))?, u32_at(image, at(80))?),
        uuid: image.get(at(48)..at(64))?.try_into().ok()?,
    })
}

/// The difference of two file systems that hold the same files.
pub fn compare(theirs: &[u8], ours: &[u8]) -> Difference {
    let (Some(left), Some(right)) = (superblock(theirs), superblock(ours)) else {
        return bytes(theirs, ours);
    };
    let field = |name: &str, left: String, right: String, cause| {
        (left != right).then(|| Difference::new(name, left, right, cause).within("superblock"))
    };
    let time = |side: &Superblock| format!("{} s", side.time_s);
    let uuid = |side: &Superblock| format!("{:02x?}", side.uuid);
    let features = |side: &Superblock| format!("{:#x} {:#x}", side.features.0, side.features.1);
    let blocks = |side: &Superblock| format!("{} blocks", side.blocks);
    field(
        "time of the build",
        time(&left),
        time(&right),
        Cause::Timestamp,
    )
    .or_else(|| {
        field(
            "features",
            features(&left),
            features(&right),
            Cause::Version,
        )
    })
    .or_else(|| field("size", blocks(&left), blocks(&right), Cause::Version))
    .or_else(|| field("id", uuid(&left), uuid(&right), Cause::Content))
    .unwrap_or_else(|| bytes(theirs, ours).within("layout or compression"))
}

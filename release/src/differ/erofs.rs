//! erofs images whose files are the same: what of the file system itself differs.
//!
//! ```text
//! 1024  magic e2 e1 f5 e0, checksum u32, features u32, block size (log2) u8, …
//!       +24 u64 time of the build   +36 u32 blocks   +48 uuid (16)   +80 u32 features
//! ```
//!
//! The checksum is the CRC-32C, not inverted at its end, of the block from 1024 on, itself as zero.
//!
//! Specification: the kernel's `fs/erofs/erofs_fs.h`, `struct erofs_super_block`.

use super::{Cause, Difference, bytes, u64_at};
use crate::pe::u32_at;

pub(super) const SUPERBLOCK: usize = 1024;
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
const CHECKSUM: usize = SUPERBLOCK + 4;
/// The compatible feature by which the checksum holds.
const HAS_CHECKSUM: u32 = 1;

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
    .unwrap_or_else(|| beyond_checksum(theirs, ours))
}

/// The first byte that differs, not counting the checksum: it follows from all that differs beside
/// it.
fn beyond_checksum(theirs: &[u8], ours: &[u8]) -> Difference {
    let without = |image: &[u8]| {
        let mut image = image.to_vec();
        if let Some(field) = image.get_mut(CHECKSUM..CHECKSUM + 4) {
            field.fill(0);
        }
        image
    };
    let (left, right) = (without(theirs), without(ours));
    if left != right {
        return bytes(&left, &right).within("layout or compression");
    }
    let field = |image| format!("{:08x}", u32_at(image, CHECKSUM).unwrap_or_default());
    let (left, right) = (field(theirs), field(ours));
    Difference::new("checksum", left, right, Cause::Content).within("superblock")
}

/// In which way an image is none that can be read, by its superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// It ends before its superblock does.
    NoSuperblock,
    /// The superblock begins otherwise than one of erofs.
    Magic(u32),
    /// The superblock's checksum does not match.
    Checksum,
    /// The image is shorter than its superblock says.
    Short {
        /// Bytes that it has.
        found: u64,
        /// Bytes that it should have.
        stated: u64,
    },
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuperblock => f.write_str("it ends before its superblock does"),
            Self::Magic(found) => write!(f, "no erofs: its superblock begins with {found:08x}"),
            Self::Checksum => f.write_str("its superblock's checksum does not match"),
            Self::Short { found, stated } => {
                write!(f, "cut off: {found} bytes of {stated}")
            }
        }
    }
}

/// What an image's superblock shows to be wrong with it.
pub fn damage(image: &[u8]) -> Option<Damage> {
    let Some(block) = image.get(SUPERBLOCK..).filter(|rest| rest.len() >= 128) else {
        return Some(Damage::NoSuperblock);
    };
    let Some(fields) = superblock(image) else {
        return Some(Damage::Magic(u32_at(block, 0).unwrap_or_default()));
    };
    let bits = u32::from(block.get(12).copied().unwrap_or_default()).min(31);
    let block_bytes = 1usize << bits;
    let found = image.len() as u64;
    let stated = u64::from(fields.blocks) << bits;
    let end = block_bytes.saturating_sub(SUPERBLOCK).max(128);
    if fields.features.0 & HAS_CHECKSUM != 0 {
        match block.get(8..end) {
            Some(rest) if Some(crc32c(rest)) == u32_at(block, 4) => {}
            Some(_) => return Some(Damage::Checksum),
            None => return Some(Damage::Short { found, stated }),
        }
    }
    (found < stated).then_some(Damage::Short { found, stated })
}

/// The kernel's CRC-32C over what follows the first 8 bytes of a superblock, which are always the
/// same to it: the magic and four zeroes.
fn crc32c(rest: &[u8]) -> u32 {
    let head = MAGIC.to_le_bytes().into_iter().chain([0; 4]);
    let mut sum = u32::MAX;
    for byte in head.chain(rest.iter().copied()) {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            let odd = sum & 1 == 1;
            sum = (sum >> 1) ^ if odd { 0x82f6_3b78 } else { 0 };
        }
    }
    sum
}

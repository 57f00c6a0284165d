//! What an erofs image says of each path, out of its inodes: what is lost when it is unpacked, or
//! what not everybody may make — devices, extended attributes, the root folder itself.
//!
//! ```text
//! superblock at 1024: +12 block size (log2) u8   +14 root's number u16
//!                     +40 first block of inodes u32   +44 of shared attributes u32
//! inode at block * size + number * 32; 32 bytes, or 64 (bit 0 of its format):
//!   0 format u16   2 attributes u16   4 mode u16   8 size   16 block or device u32
//!   24 user, group: u16 each, or u32 each   then attributes, then what of a folder fits
//! attributes: 12 bytes, the 5th of them a count; so many u32 of shared ones; then each:
//!   length of name u8, prefix u8, length of value u16, name, value, to a multiple of 4
//! folder, block by block: 12 bytes per entry (number u64, offset of name u16, kind), names
//! ```
//!
//! Specification: the kernel's `fs/erofs/erofs_fs.h`.

use std::collections::{BTreeMap, BTreeSet};

use super::erofs::{MAGIC, SUPERBLOCK};
use super::{Cause, Difference, shown_pair, u64_at};
use crate::pe::{u16_at, u32_at};

/// Most paths that are read.
const MAX_PATHS: usize = 1 << 20;
/// Most bytes of folders that are read.
const MAX_FOLDER_BYTES: u64 = 256 << 20;
const ENTRY_BYTES: usize = 12;
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
/// Layouts of a folder's data: in blocks, or its last part behind the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;

/// What an inode says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Kind and permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Extended attributes by their names.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// Why an image's inodes are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InodesError {
    /// No erofs, or none with blocks that we know.
    #[error("no superblock of erofs that we know")]
    Superblock,
    /// Something lies outside of the image.
    #[error("the image ends inside its inodes")]
    Truncated,
    /// A folder whose data is compressed or in chunks, or whose entries make no sense.
    #[error("the folder of inode {0} is malformed")]
    Folder(u64),
    /// A folder is in itself, or there are more paths than in any root.
    #[error("more than {MAX_PATHS} paths, or a folder in itself")]
    TooMany,
}

/// Every path of an image, beginning with a slash.
pub fn read(image: &[u8]) -> Result<BTreeMap<String, Inode>, InodesError> {
    use InodesError::{Superblock, TooMany};
    let field = |at| u32_at(image, SUPERBLOCK + at).ok_or(Superblock);
    let bits = image.get(SUPERBLOCK + 12).copied().unwrap_or_default();
    if field(0)? != MAGIC || !(9..=16).contains(&bits) {
        return Err(Superblock);
    }
    let reader = Reader {
        image,
        block_bytes: 1 << bits,
        inodes: u64::from(field(40)?) << bits,
        shared: u64::from(field(44)?) << bits,
    };
    let root = u16_at(image, SUPERBLOCK + 14).ok_or(Superblock)?;
    let mut found = BTreeMap::new();
    let (mut open, mut seen) = (vec![("/".to_owned(), u64::from(root))], BTreeSet::new());
    let mut folder_bytes = 0;
    while let Some((path, number)) = open.pop() {
        if found.len() == MAX_PATHS {
            return Err(TooMany);
        }
        let (inode, data) = reader.inode(number)?;
        if inode.mode & KIND == FOLDER {
            folder_bytes += data.size;
            if !seen.insert(number) || folder_bytes > MAX_FOLDER_BYTES {
                return Err(TooMany);
            }
            let above = path.trim_end_matches('/');
            let entries = reader.folder(number, &data)?.into_iter();
            open.extend(entries.map(|(name, number)| (format!("{above}/{name}"), number)));
            if open.len() > MAX_PATHS {
                return Err(TooMany);
            }
        }
        found.insert(path, inode);
    }
    Ok(found)
}

/// What the inodes of two images show, by path; `None` where one of them cannot be read.
pub fn compare(theirs: &[u8], ours: &[u8]) -> Option<Vec<Difference>> {
    let (left, right) = (read(theirs).ok()?, read(ours).ok()?);
    let mut paths: Vec<&String> = left.keys().chain(right.keys()).collect();
    paths.sort();
    paths.dedup();
    let differing = paths.into_iter().flat_map(|path| {
        let found = match (left.get(path), right.get(path)) {
            (Some(one), Some(other)) => one.compare(other),
            (one, other) => {
                let side = |there: bool| if there { "there" } else { "not there" };
                let (one, other) = (side(one.is_some()), side(other.is_some()));
                vec![Difference::new("path", one, other, Cause::Missing)]
            }
        };
        found.into_iter().map(move |one| one.within(path))
    });
    Some(differing.collect())
}

impl Inode {
    fn compare(&self, other: &Self) -> Vec<Difference> {
        let field = |name: &str, left: String, right: String, cause| {
            (left != right).then(|| Difference::new(name, left, right, cause))
        };
        let mode = |side: &Self| format!("{:04o}", side.mode & 0o7777);
        let owner = |side: &Self| format!("{}:{}", side.owner.0, side.owner.1);
        let device = |side: &Self| match side.device {
            Some((major, minor)) => format!("{major}:{minor}"),
            None => "none".to_owned(),
        };
        let kinds = (kind(self.mode).to_owned(), kind(other.mode).to_owned());
        let mut found = Vec::new();
        found.extend(field("kind", kinds.0, kinds.1, Cause::Content));
        found.extend(field("device", device(self), device(other), Cause::Content));
        found.extend(field("mode", mode(self), mode(other), Cause::Mode));
        found.extend(field("owner", owner(self), owner(other), Cause::Owner));
        let names: BTreeSet<&String> = self
            .attributes
            .keys()
            .chain(other.attributes.keys())
            .collect();
        for name in names {
            let (left, right) = (self.attributes.get(name), other.attributes.get(name));
            let cause = match (left, right) {
                _ if left == right => continue,
                (Some(_), Some(_)) => Cause::Content,
                _ => Cause::Missing,
            };
            let shown = |value: Option<&Vec<u8>>| match value {
                Some(value) => value_text(value),
                None => "not there".to_owned(),
            };
            let (left, right) = shown_pair(&shown(left), &shown(right));
            let place = format!("extended attribute {name}");
            found.push(Difference::new(place, left, right, cause));
        }
        found
    }
}

/// What kind of thing a mode is of.
fn kind(mode: u32) -> &'static str {
    match mode & KIND {
        FOLDER => "folder",
        0o100_000 => "file",
        0o120_000 => "link",
        0o020_000 => "character device",
        0o060_000 => "block device",
        0o010_000 => "pipe",
        0o140_000 => "socket",
        _ => "of no known kind",
    }
}

/// Text as it is, if it is text, or else hexadecimal.
fn value_text(value: &[u8]) -> String {
    let graphic = |byte: &u8| (0x20..0x7f).contains(byte);
    match std::str::from_utf8(value)
        .ok()
        .filter(|_| value.iter().all(graphic))
    {
        Some(text) => format!("\"{text}\""),
        None => hex::encode(value),
    }
}

struct Reader<'a> {
    image: &'a [u8],
    block_bytes: u64,
    inodes: u64,
    shared: u64,
}

/// Where a folder's data lies.
struct Data {
    layout: u16,
    size: u64,
    block: u32,
    behind_inode: u64,
}

impl<'a> Reader<'a> {
    fn slice(&self, at: u64, bytes: u64) -> Result<&'a [u8], InodesError> {
        let end = at.checked_add(bytes).ok_or(InodesError::Truncated)?;
        let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
        let found = range.and_then(|(at, end)| self.image.get(at..end));
        found.ok_or(InodesError::Truncated)
    }

    fn inode(&self, number: u64) -> Result<(Inode, Data), InodesError> {
        let truncated = InodesError::Truncated;
        let at = number
            .checked_mul(32)
            .and_then(|at| at.checked_add(self.inodes));
        let at = at.ok_or(truncated)?;
        let format = u16_at(self.slice(at, 2)?, 0).ok_or(truncated)?;
        let head_bytes = if format & 1 == 1 { 64 } else { 32 };
        let head = self.slice(at, head_bytes)?;
        let short = |at| u16_at(head, at).ok_or(truncated);
        let word = |at| u32_at(head, at).ok_or(truncated);
        let (owner, size) = match head_bytes {
            64 => ((word(24)?, word(28)?), u64_at(head, 8).ok_or(truncated)?),
            _ => {
                let owner = (u32::from(short(24)?), u32::from(short(26)?));
                (owner, u64::from(word(8)?))
            }
        };
        let count = u64::from(short(2)?);
        let attribute_bytes = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
        let attributes = self.slice(at + head_bytes, attribute_bytes)?;
        let (mode, block) = (u32::from(short(4)?), word(16)?);
        let is_device = matches!(mode & KIND, 0o020_000 | 0o060_000);
        // As the kernel's `new_encode_dev` writes it.
        let device = (
            (block >> 8) & 0xfff,
            (block & 0xff) | ((block >> 12) & 0xfff00),
        );
        let inode = Inode {
            mode,
            owner,
            device: is_device.then_some(device),
            attributes: self.attributes(attributes)?,
        };
        let data = Data {
            layout: (format >> 1) & 7,
            size,
            block,
            behind_inode: at + head_bytes + attribute_bytes,
        };
        Ok((inode, data))
    }

    fn attributes(&self, bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, InodesError> {
        let truncated = InodesError::Truncated;
        let mut found = BTreeMap::new();
        let Some(&shared) = bytes.get(4) else {
            return Ok(found);
        };
        let mut at = 12;
        for _ in 0..shared {
            let id = u32_at(bytes, at).ok_or(truncated)?;
            let rest = self.image.len() as u64;
            let start = self.shared + u64::from(id) * 4;
            let entry = self.slice(start, rest.saturating_sub(start))?;
            let (name, value, _) = attribute(entry).ok_or(truncated)?;
            found.insert(name, value);
            at += 4;
        }
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= 4) {
            // Room that is kept free is zero.
            if rest.iter().all(|&byte| byte == 0) {
                break;
            }
            let (name, value, length) = attribute(rest).ok_or(truncated)?;
            found.insert(name, value);
            at += length;
        }
        Ok(found)
    }

    /// Names and inodes of a folder, without itself and the one above.
    fn folder(&self, number: u64, data: &Data) -> Result<Vec<(String, u64)>, InodesError> {
        let malformed = InodesError::Folder(number);
        let blocks = data.size.div_ceil(self.block_bytes);
        let outside = match data.layout {
            PLAIN => data.size,
            INLINE => blocks.saturating_sub(1) * self.block_bytes,
            _ => return Err(malformed),
        };
        let start = u64::from(data.block) * self.block_bytes;
        let first = if outside == 0 {
            &[]
        } else {
            self.slice(start, outside)?
        };
        let last = self.slice(data.behind_inode, data.size - outside)?;
        let size = self.block_bytes as usize;
        let mut entries = Vec::new();
        for block in first.chunks(size).chain(last.chunks(size)) {
            let offset = |index: usize| u16_at(block, index * ENTRY_BYTES + 8).map(usize::from);
            let count = offset(0).ok_or(malformed)? / ENTRY_BYTES;
            for index in 0..count {
                let inode = u64_at(block, index * ENTRY_BYTES).ok_or(malformed)?;
                let from = offset(index).ok_or(malformed)?;
                let to = match index + 1 < count {
                    true => offset(index + 1).ok_or(malformed)?,
                    false => block.len(),
                };
                let name = block.get(from..to).ok_or(malformed)?;
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                if name.is_empty() || name.contains(&b'/') {
                    return Err(malformed);
                }
                if name != b"." && name != b".." {
                    entries.push((String::from_utf8_lossy(name).into_owned(), inode));
                }
            }
        }
        Ok(entries)
    }
}

/// The attribute at the beginning of `bytes`, and its length with padding.
fn attribute(bytes: &[u8]) -> Option<(String, Vec<u8>, usize)> {
    let (name_bytes, prefix) = (usize::from(*bytes.first()?), *bytes.get(1)?);
    let value_bytes = usize::from(u16_at(bytes, 2)?);
    let name = String::from_utf8_lossy(bytes.get(4..4 + name_bytes)?).into_owned();
    let end = 4 + name_bytes + value_bytes;
    let value = bytes.get(4 + name_bytes..end)?.to_vec();
    let prefix = match prefix {
        1 => "user.".to_owned(),
        2 => "system.posix_acl_access".to_owned(),
        3 => "system.posix_acl_default".to_owned(),
        4 => "trusted.".to_owned(),
        6 => "security.".to_owned(),
        other => format!("prefix {other}: "),
    };
    Some((format!("{prefix}{name}"), value, end.next_multiple_of(4)))
}

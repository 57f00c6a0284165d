//! cpio archives of anybody's making: the entry that differs, and what of it.
//!
//! The form is that of [`crate::cpio`], read without its strictness: an archive that carries times,
//! owners or another order is exactly what is looked for here. Archives may follow each other with
//! zeroes between.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cause, Difference, bytes, content, shown};

/// How an archive begins.
pub const MAGIC: &[u8] = b"070701";
const HEADER_BYTES: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// Most entries that are read.
const MAX_ENTRIES: usize = 1 << 20;

/// One entry with everything that its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path.
    pub path: String,
    /// Kind and permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Time, in seconds since 1970.
    pub mtime_s: u32,
    /// Inode number, links, devices.
    pub numbers: [u32; 6],
    /// Contents.
    pub data: &'a [u8],
}

/// Why bytes are no archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// No header where one must stand.
    #[error("no cpio header at byte {0}")]
    Header(usize),
    /// The archive ends inside an entry.
    #[error("the archive ends inside the entry at byte {0}")]
    Truncated(usize),
    /// More entries than any initrd has.
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// The entries of all archives in `file`, trailers left out.
pub fn entries(file: &[u8]) -> Result<Vec<Entry<'_>>, ArchiveError> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        let rest = file.get(at..).unwrap_or_default();
        let zeroes = rest.iter().take_while(|&&byte| byte == 0).count();
        at += zeroes;
        if at >= file.len() {
            return Ok(entries);
        }
        if entries.len() == MAX_ENTRIES {
            return Err(ArchiveError::TooMany);
        }
        let (entry, end) = entry(file, at)?;
        if entry.path != TRAILER {
            entries.push(entry);
        }
        at = end;
    }
}

fn entry(file: &[u8], at: usize) -> Result<(Entry<'_>, usize), ArchiveError> {
    let truncated = ArchiveError::Truncated(at);
    let end = at.checked_add(HEADER_BYTES).ok_or(truncated)?;
    let header = file.get(at..end).ok_or(truncated)?;
    // 070702 is the same with a checksum.
    if !header.starts_with(MAGIC) && !header.starts_with(b"070702") {
        return Err(ArchiveError::Header(at));
    }
    let field = |index: usize| {
        let digits = header.get(6 + index * 8..14 + index * 8)?;
        let plain = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| plain)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let field = |index| field(index).ok_or(ArchiveError::Header(at));
    let part = |start: usize, length: usize| {
        let end = start.checked_add(length).ok_or(truncated)?;
        let part = file.get(start..end).ok_or(truncated)?;
        Ok((part, end.checked_next_multiple_of(4).unwrap_or(end)))
    };
    let (name, data) = part(end, field(11)? as usize)?;
    let (data, end) = part(data, field(6)? as usize)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let entry = Entry {
        path: String::from_utf8_lossy(name).into_owned(),
        mode: field(1)?,
        owner: (field(2)?, field(3)?),
        mtime_s: field(5)?,
        numbers: [
            field(0)?,
            field(4)?,
            field(7)?,
            field(8)?,
            field(9)?,
            field(10)?,
        ],
        data,
    };
    Ok((entry, end.min(file.len())))
}

/// The first difference of two archives; `None` if one of them cannot be read or if only padding
/// differs.
pub fn compare(theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    all(theirs, ours).ok()?.into_iter().next()
}

/// Every difference of two archives: first what concerns the whole, then entry by entry.
pub fn all(theirs: &[u8], ours: &[u8]) -> Result<Vec<Difference>, ArchiveError> {
    let (theirs, ours) = (entries(theirs)?, entries(ours)?);
    let mut differences = Vec::new();
    differences.extend(order(&theirs, &ours));
    let paths = |side: &[Entry<'_>]| -> BTreeSet<String> {
        side.iter().map(|entry| entry.path.clone()).collect()
    };
    let (left, right) = (paths(&theirs), paths(&ours));
    let missing = left.symmetric_difference(&right).map(|path| {
        let side = |paths: &BTreeSet<String>| match paths.contains(path) {
            true => "there",
            false => "not there",
        };
        Difference::new(path, side(&left), side(&right), Cause::Missing)
    });
    differences.extend(missing);
    let by_path: BTreeMap<&str, &Entry<'_>> =
        ours.iter().map(|entry| (&*entry.path, entry)).collect();
    for entry in &theirs {
        let other = by_path.get(&*entry.path);
        let found = other.and_then(|other| one(entry, other));
        // A number that only counts follows from the order.
        differences
            .extend(found.filter(|found| found.cause != Cause::Order || differences.is_empty()));
    }
    Ok(differences)
}

fn order(theirs: &[Entry<'_>], ours: &[Entry<'_>]) -> Option<Difference> {
    let sorted = |side: &[Entry<'_>]| {
        let mut paths: Vec<String> = side.iter().map(|entry| entry.path.clone()).collect();
        paths.sort();
        paths
    };
    if sorted(theirs) != sorted(ours) {
        return None;
    }
    let mut pairs = theirs.iter().zip(ours).enumerate();
    let (index, (left, right)) = pairs.find(|(_, (left, right))| left.path != right.path)?;
    let place = format!("entry {}", index + 1);
    Some(Difference::new(
        place,
        &*left.path,
        &*right.path,
        Cause::Order,
    ))
}

fn one(theirs: &Entry<'_>, ours: &Entry<'_>) -> Option<Difference> {
    let path = &theirs.path;
    let field = |name: &str, theirs: String, ours: String, cause| {
        (theirs != ours).then(|| Difference::new(name, theirs, ours, cause).within(path))
    };
    let octal = |entry: &Entry<'_>| format!("{:06o}", entry.mode);
    let owner = |entry: &Entry<'_>| format!("{}:{}", entry.owner.0, entry.owner.1);
    let time = |entry: &Entry<'_>| format!("{} s", entry.mtime_s);
    let numbers = |entry: &Entry<'_>| shown(&format!("{:?}", entry.numbers));
    field("mode", octal(theirs), octal(ours), Cause::Mode)
        .or_else(|| field("owner", owner(theirs), owner(ours), Cause::Owner))
        .or_else(|| field("time", time(theirs), time(ours), Cause::Timestamp))
        .or_else(|| content(theirs.data, ours.data).map(|found| found.within(path)))
        .or_else(|| {
            let name = "inode, links, devices";
            field(name, numbers(theirs), numbers(ours), Cause::Order)
        })
}

/// The first differing byte of two archives whose entries are the same: padding, or what follows.
pub fn padding(theirs: &[u8], ours: &[u8]) -> Difference {
    bytes(theirs, ours).within("padding")
}

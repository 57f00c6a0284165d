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

/// Every difference of two archives: first what concerns the whole, then entry by entry. A path
/// may stand in an archive several times; the kernel keeps the last, and so it is the last that is
/// compared with the last.
pub fn all(theirs: &[u8], ours: &[u8]) -> Result<Vec<Difference>, ArchiveError> {
    let (theirs, ours) = (entries(theirs)?, entries(ours)?);
    let (left, right) = (places(&theirs), places(&ours));
    let mut differences = Vec::new();
    differences.extend(order(&left, &right, &theirs, &ours));
    let paths: BTreeSet<&str> = left
        .keys()
        .chain(right.keys())
        .map(|(path, _)| *path)
        .collect();
    let missing = paths.into_iter().filter_map(|path| {
        let (one, other) = (numbers_of(&left, path), numbers_of(&right, path));
        (one.len() != other.len()).then(|| {
            let several = one.len().max(other.len()) > 1;
            Difference::new(
                path,
                side(&one, several),
                side(&other, several),
                Cause::Missing,
            )
        })
    });
    differences.extend(missing);
    for entry in common(&left, &right) {
        let found = left.get(&entry).zip(right.get(&entry));
        let found = found.and_then(|(&left, &right)| one(theirs.get(left)?, ours.get(right)?));
        // A number that only counts follows from the order.
        differences
            .extend(found.filter(|found| found.cause != Cause::Order || differences.is_empty()));
    }
    Ok(differences)
}

/// Where each entry stands: by its path, and by how many of the same path follow it.
type Places<'a> = BTreeMap<(&'a str, usize), usize>;

fn places<'a>(entries: &'a [Entry<'_>]) -> Places<'a> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate().rev() {
        let count = counts.entry(&entry.path).or_default();
        found.insert((&*entry.path, *count), index);
        *count += 1;
    }
    found
}

/// The numbers of a path's entries, from 1.
fn numbers_of(places: &Places<'_>, path: &str) -> Vec<usize> {
    let range = places.range((path, 0)..=(path, usize::MAX));
    let mut numbers: Vec<usize> = range.map(|(_, index)| index + 1).collect();
    numbers.sort_unstable();
    numbers
}

fn side(numbers: &[usize], several: bool) -> String {
    let listed: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    match numbers.len() {
        0 => "not there".to_owned(),
        1 if !several => "there".to_owned(),
        1 => format!("once, as entry {}", listed.join(", ")),
        count => shown(&format!("{count} times, as entry {}", listed.join(", "))),
    }
}

/// What both sides have, in the order of the published side.
fn common<'a>(theirs: &Places<'a>, ours: &Places<'a>) -> Vec<(&'a str, usize)> {
    let both = theirs.iter().filter(|(entry, _)| ours.contains_key(*entry));
    let mut both: Vec<_> = both.map(|(entry, index)| (*index, *entry)).collect();
    both.sort_unstable();
    both.into_iter().map(|(_, entry)| entry).collect()
}

/// The first of the entries that both have which stands elsewhere among them.
fn order(
    left: &Places<'_>,
    right: &Places<'_>,
    theirs: &[Entry<'_>],
    ours: &[Entry<'_>],
) -> Option<Difference> {
    let (before, after) = (common(left, right), common(right, left));
    let mut pairs = before.iter().zip(&after);
    let (one, other) = pairs.find(|(one, other)| one != other)?;
    let (one, other) = (*left.get(one)?, *right.get(other)?);
    let place = format!("entry {}", one + 1);
    let (one, other) = (&*theirs.get(one)?.path, &*ours.get(other)?.path);
    Some(Difference::new(place, one, other, Cause::Order))
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

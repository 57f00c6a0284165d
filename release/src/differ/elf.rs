//! ELF files (64 bits, little-endian): the section that differs, and the string in it.
//!
//! ```text
//! 0x00  7f "ELF", class 2, data 1 …
//! 0x28  u64 offset of the section table   0x3a u16 bytes of an entry (64)
//! 0x3c  u16 number of entries             0x3e u16 entry with the names
//! entry: name u32, type u32, flags u64, address u64, offset u64, size u64, …
//! ```
//!
//! Specification: System V ABI, "Object Files". A longer string moves everything behind it, so the
//! section that explains the others is looked for: one whose strings differ in a known way.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Cause, Difference, bytes, cause, first_difference, renamed, shown, u64_at};
use crate::pe::{u16_at, u32_at};

/// How a file begins.
pub const MAGIC: &[u8] = b"\x7fELF";
const ENTRY_BYTES: usize = 64;
/// A section that takes no room in the file.
const NO_BITS: u32 = 8;
/// Shortest string that is looked at.
const MIN_STRING_BYTES: usize = 6;
/// Most characters of context around a differing part of a string.
const CONTEXT: usize = 48;

/// A section of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name.
    pub name: String,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// Why bytes are not an ELF file that can be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not ELF, 64 bits, little-endian.
    #[error("not a 64-bit little-endian ELF file")]
    Magic,
    /// Ends inside its headers, or a section lies outside of it.
    #[error("the file ends inside its headers or a section")]
    Truncated,
    /// No section table, or one of another form.
    #[error("there is no section table of the known form")]
    Table,
}

/// The sections of a file, in the order of its table.
pub fn sections(file: &[u8]) -> Result<Vec<Section>, ElfError> {
    use ElfError::{Magic, Table, Truncated};
    if !file.starts_with(MAGIC) || file.get(4..6) != Some(&[2, 1]) {
        return Err(Magic);
    }
    let start = u64_at(file, 0x28).ok_or(Truncated)?;
    let start = usize::try_from(start).map_err(|_| Truncated)?;
    let field = |at| u16_at(file, at).map(usize::from).ok_or(Truncated);
    let (entry_bytes, count, names) = (field(0x3a)?, field(0x3c)?, field(0x3e)?);
    if start == 0 || count == 0 || entry_bytes != ENTRY_BYTES || names >= count {
        return Err(Table);
    }
    let entry = |index: usize| {
        let at = start.checked_add(index * ENTRY_BYTES)?;
        file.get(at..at.checked_add(ENTRY_BYTES)?)
    };
    let names = body(file, entry(names).ok_or(Truncated)?)?;
    let names = file.get(names).ok_or(Truncated)?;
    let mut sections = Vec::with_capacity(count);
    for index in 0..count {
        let entry = entry(index).ok_or(Truncated)?;
        let at = u32_at(entry, 0).ok_or(Truncated)? as usize;
        let name = names.get(at..).ok_or(Truncated)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        sections.push(Section {
            name: String::from_utf8_lossy(name).into_owned(),
            range: body(file, entry)?,
        });
    }
    Ok(sections)
}

fn body(file: &[u8], entry: &[u8]) -> Result<Range<usize>, ElfError> {
    let kind = u32_at(entry, 4).ok_or(ElfError::Truncated)?;
    let number = |at| u64_at(entry, at).and_then(|number| usize::try_from(number).ok());
    let (start, size) = number(24).zip(number(32)).ok_or(ElfError::Truncated)?;
    if kind == 0 || kind == NO_BITS {
        return Ok(0..0);
    }
    let end = start.checked_add(size).filter(|&end| end <= file.len());
    Ok(start..end.ok_or(ElfError::Truncated)?)
}

/// The first difference of two files; `None` if one of them cannot be taken apart or if the
/// difference lies in no section.
pub fn compare(theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    let (left, right) = (sections(theirs).ok()?, sections(ours).ok()?);
    let named = |sections: &[Section]| -> Vec<String> {
        sections
            .iter()
            .map(|section| section.name.clone())
            .collect()
    };
    if named(&left) != named(&right) {
        let is_same = |index: usize| {
            let of = |file: &[u8], sections: &[Section]| {
                let range = sections.get(index).map(|section| section.range.clone());
                range.and_then(|range| file.get(range).map(<[u8]>::to_vec))
            };
            of(theirs, &left) == of(ours, &right)
        };
        if let Some(found) = renamed(&named(&left), &named(&right), is_same) {
            return Some(found);
        }
        let place = "list of sections";
        let shown = |sections| shown(&named(sections).join(" "));
        let (left, right) = (shown(&left), shown(&right));
        return Some(Difference::new(place, left, right, Cause::Missing));
    }
    let mut first = None;
    for (left, right) in left.iter().zip(&right) {
        let theirs = theirs.get(left.range.clone()).unwrap_or_default();
        let ours = ours.get(right.range.clone()).unwrap_or_default();
        if theirs == ours {
            continue;
        }
        let place = format!("section {}", left.name);
        if let Some(found) = strings(theirs, ours) {
            return Some(found.within(place));
        }
        first = first.or_else(|| Some(bytes(theirs, ours).within(place)));
    }
    first
}

/// The first strings that stand on one side only and differ in a known way.
fn strings(theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    let (left, right) = (printable(theirs), printable(ours));
    let only = |side: &[&str], other: &[&str]| -> Vec<String> {
        let other: BTreeSet<&str> = other.iter().copied().collect();
        let only = side.iter().filter(|string| !other.contains(**string));
        only.map(|string| (*string).to_owned()).collect()
    };
    let pairs = only(&left, &right).into_iter().zip(only(&right, &left));
    let mut differences = pairs.map(|(theirs, ours)| {
        let (theirs, ours) = around(&theirs, &ours);
        let cause = cause::guess(&theirs, &ours);
        Difference::new("string", theirs, ours, cause)
    });
    differences.find(|difference| difference.cause != Cause::Content)
}

/// The runs of printable ASCII.
fn printable(bytes: &[u8]) -> Vec<&str> {
    let runs = bytes.split(|byte| !(0x20..0x7f).contains(byte));
    let long = runs.filter(|run| run.len() >= MIN_STRING_BYTES);
    long.filter_map(|run| std::str::from_utf8(run).ok())
        .collect()
}

/// The words around the first differing character: strings of Rust follow each other without an
/// end between, so a run can be long.
fn around(theirs: &str, ours: &str) -> (String, String) {
    let at = first_difference(theirs.as_bytes(), ours.as_bytes());
    let cut = |side: &str| {
        let bytes = side.as_bytes();
        let is_word = |byte: &&u8| byte.is_ascii_graphic() && !b"\"'`()<>".contains(byte);
        let before = bytes.get(..at).unwrap_or_default().iter().rev();
        let before = before.take(CONTEXT).take_while(is_word).count();
        let after = bytes.get(at..).unwrap_or_default().iter();
        let after = after.take(CONTEXT).take_while(is_word).count();
        side.get(at - before..at + after)
            .unwrap_or_default()
            .to_owned()
    };
    (cut(theirs), cut(ours))
}

//! PE images, UKIs among them: the section that differs, and what of it.

use super::{Cause, Difference, bytes, content};
use crate::pe::{Image, u32_at};

/// The first difference of two images; `None` if one of them cannot be taken apart.
pub fn compare(theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    let (left, right) = (Image::parse(theirs).ok()?, Image::parse(ours).ok()?);
    let names = |image: &Image<'_>| -> Vec<String> {
        let sections = image.sections().iter();
        sections.map(|section| section.name.clone()).collect()
    };
    let (before, after) = (names(&left), names(&right));
    if before != after {
        let place = "list of sections";
        let cause = match sorted(&before) == sorted(&after) {
            true => Cause::Order,
            false => Cause::Missing,
        };
        return Some(Difference::new(
            place,
            before.join(" "),
            after.join(" "),
            cause,
        ));
    }
    let mut pairs = left.sections().iter().zip(right.sections());
    let inside = pairs.find_map(|(one, other)| {
        // Where memory holds more than the file, the file's part is all there is.
        let data = |image: &Image<'_>, section: &crate::pe::Section| {
            let file = image.bytes().get(section.raw.clone()).unwrap_or_default();
            image.contents(section).unwrap_or(file).to_vec()
        };
        let found = content(&data(&left, one), &data(&right, other))?;
        Some(found.within(format!("section {}", one.name)))
    });
    inside.or_else(|| header(theirs, ours, left.headers().coff))
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

/// The header's time, or the first byte that is in no section.
fn header(theirs: &[u8], ours: &[u8], coff: usize) -> Option<Difference> {
    let time = |file| u32_at(file, coff + 4).map(|time| format!("{time} s"));
    match (time(theirs)?, time(ours)?) {
        (theirs, ours) if theirs != ours => Some(Difference::new(
            "header's time",
            theirs,
            ours,
            Cause::Timestamp,
        )),
        _ => Some(bytes(theirs, ours).within("headers and padding")),
    }
}

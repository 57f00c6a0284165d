//! PE images, UKIs among them: the section that differs, and what of it.

use super::{Cause, Difference, bytes, content, renamed};
use crate::pe::{Image, Section, u32_at};

/// The first difference of two images; `None` if one of them cannot be taken apart.
pub fn compare(theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    all(theirs, ours)?.into_iter().next()
}

/// The contents of a section in both images.
pub fn section(theirs: &[u8], ours: &[u8], name: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let of = |file: &[u8]| {
        let image = Image::parse(file).ok()?;
        let found = image
            .sections()
            .iter()
            .find(|section| section.name == name)?;
        Some(data(&image, found))
    };
    Some((of(theirs)?, of(ours)?))
}

/// Where memory holds more than the file, the file's part is all there is.
fn data(image: &Image<'_>, section: &Section) -> Vec<u8> {
    let file = image.bytes().get(section.raw.clone()).unwrap_or_default();
    image.contents(section).unwrap_or(file).to_vec()
}

/// The first difference of each section of two images; `None` if one of them cannot be taken
/// apart.
pub fn all(theirs: &[u8], ours: &[u8]) -> Option<Vec<Difference>> {
    let (left, right) = (Image::parse(theirs).ok()?, Image::parse(ours).ok()?);
    let names = |image: &Image<'_>| -> Vec<String> {
        let sections = image.sections().iter();
        sections.map(|section| section.name.clone()).collect()
    };
    let (before, after) = (names(&left), names(&right));
    if before != after {
        let is_same = |index: usize| {
            let of = |image: &Image<'_>| image.sections().get(index).map(|one| data(image, one));
            of(&left) == of(&right)
        };
        if let Some(found) = renamed(&before, &after, is_same) {
            return Some(vec![found]);
        }
        let place = "list of sections";
        let cause = match sorted(&before) == sorted(&after) {
            true => Cause::Order,
            false => Cause::Missing,
        };
        let (before, after) = (before.join(" "), after.join(" "));
        return Some(vec![Difference::new(place, before, after, cause)]);
    }
    let pairs = left.sections().iter().zip(right.sections());
    let inside = pairs.filter_map(|(one, other)| {
        let found = content(&data(&left, one), &data(&right, other))?;
        Some(found.within(format!("section {}", one.name)))
    });
    let inside: Vec<_> = inside.collect();
    match inside.is_empty() {
        true => Some(
            header(theirs, ours, left.headers().coff)
                .into_iter()
                .collect(),
        ),
        false => Some(inside),
    }
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

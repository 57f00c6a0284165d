//! Text: the first line that differs.

use super::{Cause, Difference, cause, shown_pair};

/// Largest file that is read as text.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// The first difference of two texts; `None` if one of them is no text.
pub fn compare(theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    let (theirs, ours) = (text(theirs)?, text(ours)?);
    let (theirs, ours) = (lines(theirs), lines(ours));
    let number = theirs.iter().zip(&ours).take_while(|(a, b)| a == b).count();
    let line = |side: &[&str]| side.get(number).map(|line| (*line).to_owned());
    let (left, right) = (line(&theirs), line(&ours));
    let added = added(theirs.get(number..), ours.get(number..));
    let cause = match (&left, &right) {
        _ if is_reordered(&theirs, &ours) => Cause::Order,
        _ if added.is_some() => cause::of(added.unwrap_or_default(), Cause::Missing),
        (Some(left), Some(right)) => cause::guess(left, right),
        _ => Cause::Missing,
    };
    let (left, right) = sides(left.as_deref(), right.as_deref());
    let place = format!("line {}", number + 1);
    Some(Difference::new(place, left, right, cause))
}

/// Two lines as a report shows them; where they differ in their ends alone, these are said.
fn sides(theirs: Option<&str>, ours: Option<&str>) -> (String, String) {
    let ends = "the text ends".to_owned();
    let plain = |line: &str| line.trim_end_matches('\n').to_owned();
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if plain(theirs) == plain(ours) => {
            let named = |line: &str| match line.ends_with('\n') {
                true => "the line has an end",
                false => "the line has no end",
            };
            (named(theirs).to_owned(), named(ours).to_owned())
        }
        (Some(theirs), Some(ours)) => shown_pair(&plain(theirs), &plain(ours)),
        (Some(theirs), None) => (shown_pair(&plain(theirs), "").0, ends),
        (None, Some(ours)) => (ends, shown_pair("", &plain(ours)).1),
        (None, None) => (ends.clone(), ends),
    }
}

/// The first of the lines that one side has more, where that is all the difference.
fn added<'a>(theirs: Option<&[&'a str]>, ours: Option<&[&'a str]>) -> Option<&'a str> {
    let (theirs, ours) = (theirs?, ours?);
    let (less, more) = match theirs.len() < ours.len() {
        true => (theirs, ours),
        false => (ours, theirs),
    };
    let is_all = less.len() < more.len() && more.ends_with(less);
    more.first().filter(|_| is_all).copied()
}

/// Lines with their ends: a missing last one is a difference, too.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn is_reordered(theirs: &[&str], ours: &[&str]) -> bool {
    let sorted = |side: &[&str]| {
        let mut side: Vec<String> = side.iter().map(|line| (*line).to_owned()).collect();
        side.sort();
        side
    };
    theirs.len() == ours.len() && sorted(theirs) == sorted(ours)
}

/// Bytes as text: UTF-8 without control characters but tabs and ends of lines.
fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > MAX_TEXT_BYTES {
        return None;
    }
    let control = |byte: u8| byte < 0x20 && !b"\t\n\r".contains(&byte);
    match bytes.iter().any(|&byte| control(byte)) {
        true => None,
        false => std::str::from_utf8(bytes).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_named() {
        let found = compare(b"one\nBUILD=2026-01-01\n", b"one\nBUILD=2026-01-02\n").unwrap();
        assert_eq!(found.place, ["line 2"]);
        assert_eq!(found.theirs, "BUILD=2026-01-01");
        assert_eq!(found.cause, Cause::Timestamp);
        assert_eq!(compare(b"a\nb\n", b"b\na\n").unwrap().cause, Cause::Order);
        let longer = compare(b"a\n", b"a\nb\n").unwrap();
        assert_eq!(
            (longer.theirs.as_str(), longer.cause),
            ("the text ends", Cause::Missing)
        );
        let inserted = compare(b"a\nb\n", b"a\n# built 2026-11-21\nb\n").unwrap();
        assert_eq!(inserted.cause, Cause::Timestamp);
        assert_eq!(compare(b"a\nb\n", b"b\n").unwrap().cause, Cause::Missing);
        assert_eq!(compare(b"a\0", b"b"), None);
    }
}

//! What kind of thing two differing fragments are.

use std::fmt;

/// Why two builds differ, most likely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A time of the build or of a file.
    Timestamp,
    /// A folder of the machine that built.
    Path,
    /// The same things in another order.
    Order,
    /// Permissions.
    Mode,
    /// Another user or group.
    Owner,
    /// Another version of a package or a tool.
    Version,
    /// Only one side has it.
    Missing,
    /// Nothing of the above could be seen in it.
    Content,
}

impl Cause {
    /// The cause in one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::Path => "path",
            Self::Order => "order",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Version => "version",
            Self::Missing => "missing",
            Self::Content => "content",
        }
    }

    /// The cause in a sentence, with where to look.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Timestamp => "a time got in: look for what writes the date of the build",
            Self::Path => "a path of the building machine got in: look for an unmapped folder",
            Self::Order => "the same things in another order: look for an unsorted list",
            Self::Mode => "permissions differ: look for a umask or a checkout's modes",
            Self::Owner => "user or group differs: look for who ran the build",
            Self::Version => "another version of a package or tool: compare the locks",
            Self::Missing => "only one side has it: compare the lists of what goes in",
            Self::Content => "the contents differ: compare the sources that made it",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a word is of one kind.
type Kind = fn(&str) -> bool;

/// The likely cause of two fragments that differ: the first kind that both sides of a differing
/// word are of.
pub fn guess(theirs: &str, ours: &str) -> Cause {
    let pairs = differing_words(theirs, ours);
    let kinds: [(Cause, Kind); 3] = [
        (Cause::Timestamp, is_time),
        (Cause::Path, is_path),
        (Cause::Version, is_version),
    ];
    let fits = |is: Kind| pairs.iter().any(|(theirs, ours)| is(theirs) && is(ours));
    let found = kinds.iter().find(|(_, is)| fits(*is));
    found.map_or(Cause::Content, |(cause, _)| *cause)
}

/// The likely cause of something that stands on one side only: a time in it, or else `otherwise`.
pub fn of(text: &str, otherwise: Cause) -> Cause {
    let has_time = words(text)
        .into_iter()
        .any(|word| has_date(word) || has_clock(word));
    match has_time {
        true => Cause::Timestamp,
        false => otherwise,
    }
}

fn words(text: &str) -> Vec<&str> {
    let ends = |c: char| c.is_whitespace() || "\"'`=,;()[]{}<>|".contains(c);
    text.split(ends).filter(|word| !word.is_empty()).collect()
}

fn differing_words<'a>(theirs: &'a str, ours: &'a str) -> Vec<(&'a str, &'a str)> {
    let (theirs, ours) = (words(theirs), words(ours));
    if theirs.len() == ours.len() {
        let pairs = theirs.into_iter().zip(ours);
        return pairs.filter(|(theirs, ours)| theirs != ours).collect();
    }
    // Of unequal lists, the words that follow the common beginning and precede the common end.
    let head = theirs.iter().zip(&ours).take_while(|(a, b)| a == b).count();
    theirs
        .into_iter()
        .skip(head)
        .zip(ours.into_iter().skip(head))
        .collect()
}

/// A date, a time of day, a name of a day or month, or seconds since 1970.
fn is_time(word: &str) -> bool {
    const NAMES: [&str; 19] = [
        "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun",
        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let epoch = || {
        let number: Option<u64> = word.parse().ok();
        // From 2001 to 2100, in seconds.
        number.is_some_and(|seconds| (1_000_000_000..4_102_444_800).contains(&seconds))
    };
    NAMES.contains(&word) || epoch() || has_date(word) || has_clock(word)
}

/// `2026-11-21`, `2026/11/21` or `20261121T…` in a word.
fn has_date(word: &str) -> bool {
    let digits: Vec<u8> = word.bytes().collect();
    let number = |bytes: &[u8]| -> Option<u32> {
        let plain = bytes.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(bytes)
            .ok()
            .filter(|_| plain)?
            .parse()
            .ok()
    };
    let date = |year: &[u8], month: &[u8], day: &[u8]| {
        let fits = |bytes: &[u8], range: std::ops::RangeInclusive<u32>| {
            number(bytes).is_some_and(|number| range.contains(&number))
        };
        fits(year, 1970..=2199) && fits(month, 1..=12) && fits(day, 1..=31)
    };
    let dashed = digits.windows(10).any(|w| {
        let between = (w[4] == b'-' && w[7] == b'-') || (w[4] == b'/' && w[7] == b'/');
        between && date(&w[..4], &w[5..7], &w[8..])
    });
    let compact = || {
        let (day, rest) = digits.split_at(digits.len().min(8));
        day.len() == 8
            && (rest.is_empty() || rest[0] == b'T')
            && date(&day[..4], &day[4..6], &day[6..])
    };
    dashed || compact()
}

/// `12:34` or `12:34:56` in a word.
fn has_clock(word: &str) -> bool {
    word.as_bytes().windows(5).any(|w| {
        let digits = [w[0], w[1], w[3], w[4]].iter().all(u8::is_ascii_digit);
        digits && w[2] == b':' && w[0] < b'3' && w[3] < b'6'
    })
}

/// An absolute path of at least two parts.
fn is_path(word: &str) -> bool {
    let Some(start) = word.find('/') else {
        return false;
    };
    let path = word.get(start..).unwrap_or_default();
    let parts = path.split('/').filter(|part| !part.is_empty()).count();
    parts >= 2 && !path.starts_with("//")
}

/// Numbers with dots between, such as `1.5.7+dfsg-1` or `v0.9`.
fn is_version(word: &str) -> bool {
    let bytes = word.as_bytes();
    let dotted = |w: &[u8]| w[0].is_ascii_digit() && w[1] == b'.' && w[2].is_ascii_digit();
    bytes.windows(3).any(dotted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn causes_are_seen_in_the_words_that_differ() {
        let cases = [
            (
                "BUILD=2026-11-20T09:00:00Z",
                "BUILD=2026-11-21T10:11:12Z",
                Cause::Timestamp,
            ),
            ("built 1793491200", "built 1795104000", Cause::Timestamp),
            (
                "#1 SMP Sat Nov 21 10:00 2026",
                "#1 SMP Sun Nov 1 10:00 2026",
                Cause::Timestamp,
            ),
            ("20261121T100000", "20261122T100000", Cause::Timestamp),
            (
                "at /home/a/src/main.rs:7",
                "at /build/b/src/main.rs:7",
                Cause::Path,
            ),
            (
                "GCC: (Debian 14.2.0-19) 14.2.0",
                "GCC: (Debian 14.3.0-1) 14.3.0",
                Cause::Version,
            ),
            ("VERSION=1.5.7", "VERSION=1.5.8", Cause::Version),
            ("KEY=one", "KEY=two", Cause::Content),
            ("limit=1024", "limit=4096", Cause::Content),
            ("", "a new line", Cause::Content),
        ];
        for (theirs, ours, cause) in cases {
            assert_eq!(guess(theirs, ours), cause, "{theirs} | {ours}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_cause(theirs: String, ours: String) {
            let _ = guess(&theirs, &ours);
        }
    }
}

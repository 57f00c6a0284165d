//! Where two artifacts differ, and why: from the file inwards to the first object that is not the
//! same.
//!
//! ```text
//! disk (GPT) → partition → erofs → file → ELF section, text line …
//! UKI (PE)   → section   → text line, …          initrd (zstd) → cpio entry → …
//! ```
//!
//! A place is a list of names, outermost first. A cause is a guess from the bytes that differ, and
//! is called likely for that reason; the place is a fact.

pub mod archive;
pub mod artifact;
pub mod cause;
pub mod disk;
pub mod elf;
pub mod erofs;
pub mod fat;
pub mod image;
pub mod initrd;
pub mod inodes;
pub mod text;
pub mod tree;

pub use cause::Cause;

/// Most bytes of a fragment that a report shows.
const SHOWN_BYTES: usize = 120;
/// Characters before the first differing one that a report shows of a longer fragment.
const SHOWN_BEFORE: usize = 40;
/// Most differences that are reported of one artifact.
pub const MAX_DIFFERENCES: usize = 64;

/// One object that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where it stands, outermost first.
    pub place: Vec<String>,
    /// What the published side has.
    pub theirs: String,
    /// What the rebuilt side has.
    pub ours: String,
    /// The package or source that it comes from.
    pub owner: Option<String>,
    /// Why it differs, most likely.
    pub cause: Cause,
}

impl Difference {
    /// A difference at one named place.
    pub fn new(
        place: impl Into<String>,
        theirs: impl Into<String>,
        ours: impl Into<String>,
        cause: Cause,
    ) -> Self {
        Self {
            place: vec![place.into()],
            theirs: theirs.into(),
            ours: ours.into(),
            owner: None,
            cause,
        }
    }

    /// The same difference, seen from one step further out.
    #[must_use]
    pub fn within(mut self, place: impl Into<String>) -> Self {
        self.place.insert(0, place.into());
        self
    }

    /// The same difference with its owner, unless one is known already.
    #[must_use]
    pub fn of(mut self, owner: Option<&str>) -> Self {
        if self.owner.is_none() {
            self.owner = owner.map(str::to_owned);
        }
        self
    }
}

/// The first difference between two files' contents, as deep as their form is known.
pub fn content(theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    if theirs == ours {
        return None;
    }
    let both = |magic: &[u8]| theirs.starts_with(magic) && ours.starts_with(magic);
    let inside = if both(elf::MAGIC) {
        elf::compare(theirs, ours)
    } else if both(b"MZ") {
        image::compare(theirs, ours)
    } else if both(archive::MAGIC) {
        archive::compare(theirs, ours)
    } else {
        text::compare(theirs, ours)
    };
    Some(inside.unwrap_or_else(|| bytes(theirs, ours)))
}

/// The first byte that differs, where nothing else is known of the form.
pub fn bytes(theirs: &[u8], ours: &[u8]) -> Difference {
    let at = first_difference(theirs, ours);
    let shown = |side: &[u8]| match side.get(at..) {
        None | Some([]) => format!("ends, {} bytes", side.len()),
        Some(rest) => {
            let hex: Vec<String> = rest.iter().take(16).map(|b| format!("{b:02x}")).collect();
            format!("{}, of {} bytes", hex.join(" "), side.len())
        }
    };
    Difference::new(
        format!("byte {at}"),
        shown(theirs),
        shown(ours),
        Cause::Content,
    )
}

/// Length of the common beginning.
pub(crate) fn first_difference(theirs: &[u8], ours: &[u8]) -> usize {
    let pairs = theirs.iter().zip(ours);
    pairs.take_while(|(theirs, ours)| theirs == ours).count()
}

/// A fragment as a report shows it.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at >= SHOWN_BYTES) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Two fragments that differ, as a report shows them: of long ones what is around the first
/// differing character, so that the two never look the same.
pub(crate) fn shown_pair(theirs: &str, ours: &str) -> (String, String) {
    if theirs.len() <= SHOWN_BYTES && ours.len() <= SHOWN_BYTES {
        return (theirs.to_owned(), ours.to_owned());
    }
    let pairs = theirs.chars().zip(ours.chars());
    let same = pairs.take_while(|(theirs, ours)| theirs == ours).count();
    let mut start = same.saturating_sub(SHOWN_BEFORE);
    // At the beginning of a word, if one begins there.
    let before: Vec<char> = theirs.chars().take(same).collect();
    let words = before.get(start..).unwrap_or_default().iter();
    if let Some(space) = words
        .clone()
        .position(|c| c.is_whitespace())
        .filter(|_| start > 0)
    {
        start += space + 1;
    }
    let cut = |side: &str| {
        let rest: String = side.chars().skip(start).collect();
        let rest = shown(&rest);
        if start == 0 {
            rest
        } else {
            format!("…{rest}")
        }
    };
    (cut(theirs), cut(ours))
}

/// A list of which one name alone differs, while what it names is the same: a new name.
pub(crate) fn renamed(
    theirs: &[String],
    ours: &[String],
    is_same: impl Fn(usize) -> bool,
) -> Option<Difference> {
    let mut pairs = theirs.iter().zip(ours).enumerate();
    let (index, (left, right)) = pairs.find(|(_, (left, right))| left != right)?;
    let rest = pairs.all(|(_, (left, right))| left == right);
    let is_new = theirs.len() == ours.len() && rest && is_same(index);
    let place = format!("name of section {}", index + 1);
    is_new.then(|| Difference::new(place, left, right, Cause::Content))
}

/// A little-endian number in a file.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

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
pub mod image;
pub mod text;
pub mod tree;

pub use cause::Cause;

/// Most bytes of a fragment that a report shows.
const SHOWN_BYTES: usize = 120;
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

/// A little-endian number in a file.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

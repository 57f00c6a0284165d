//! What a monitor remembers of a log.

use attest::Digest;
use attest::release::{Checkpoint, Origin};
use serde::{Deserialize, Serialize};

use super::Range;

/// Longest state.
pub const MAX_STATE_BYTES: u64 = 16 << 10;

/// How far a log was read, and what it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    origin: Origin,
    size: u64,
    root: Digest<32>,
    range: Range,
    from: u64,
}

/// Why a file is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not of the form that is written here.
    #[error("not a monitor's state")]
    Form(#[source] serde_json::Error),
    /// Its parts contradict each other.
    #[error("not a monitor's state: its parts contradict each other")]
    Parts,
    /// Of another log.
    #[error("the state of log {found}, and this is {expected}")]
    Origin {
        /// Asked for.
        expected: Origin,
        /// In the file.
        found: Origin,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    origin: Origin,
    size: u64,
    root: Digest<32>,
    next: u64,
    subtrees: Vec<Digest<32>>,
    from: u64,
}

impl State {
    /// After the entries of `range` were read under `checkpoint`, all from `from` on.
    #[must_use]
    pub(super) fn new(checkpoint: &Checkpoint, range: Range, from: u64) -> Self {
        Self {
            origin: checkpoint.origin.clone(),
            size: checkpoint.size,
            root: checkpoint.root,
            range,
            from,
        }
    }

    /// Reads a file.
    pub fn parse(bytes: &[u8], origin: &Origin) -> Result<Self, StateError> {
        let file: File = serde_json::from_slice(bytes).map_err(StateError::Form)?;
        if file.origin != *origin {
            let (expected, found) = (origin.clone(), file.origin);
            return Err(StateError::Origin { expected, found });
        }
        let range = Range::of(file.next, file.subtrees);
        let range = range.filter(|_| file.from <= file.next && file.next <= file.size);
        Ok(Self {
            origin: file.origin,
            size: file.size,
            root: file.root,
            range: range.ok_or(StateError::Parts)?,
            from: file.from,
        })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let file = File {
            origin: self.origin.clone(),
            size: self.size,
            root: self.root,
            next: self.range.size(),
            subtrees: self.range.roots().to_vec(),
            from: self.from,
        };
        // Names, numbers and digests have a JSON form.
        serde_json::to_vec(&file).unwrap_or_default()
    }

    /// Entries of the log by its last checkpoint.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root by its last checkpoint.
    #[must_use]
    pub fn root(&self) -> Digest<32> {
        self.root
    }

    /// The first entry that is not read yet.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.range.size()
    }

    /// The first entry that ever was read.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    pub(super) fn range(&self) -> &Range {
        &self.range
    }
}

//! How a log came to be what it is: enough of its tree to show that it continues an earlier state.
//!
//! ```text
//! entries   0 … from                         from … size
//!           roots of the full subtrees,      a hash for each entry
//!           largest first (`frontier`)       (`leaves`)
//! ```
//!
//! From these follows the root for every size from `from` to `size`. A checkpoint signs the last of
//! them; a client that remembers another one compares. This says as much as the consistency proofs
//! of RFC 9162 (section 2.1.4) for all those sizes together, without asking anybody for one.

use serde::{Deserialize, Serialize};

use super::bundle::{read_hashes, write_hashes};
use super::merkle::node_hash;
use crate::Digest;

/// Most entries whose hashes are listed.
pub const MAX_HISTORY: usize = 2048;

/// The end of a log's history, of a length of its maker's choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct History {
    from: u64,
    #[serde(serialize_with = "write_hashes")]
    frontier: Vec<Digest<32>>,
    #[serde(serialize_with = "write_hashes")]
    leaves: Vec<Digest<32>>,
}

/// Not a history: a number of subtrees that no such log has, or too many entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the history of a log")]
pub struct HistoryError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    from: u64,
    #[serde(deserialize_with = "read_hashes")]
    frontier: Vec<Digest<32>>,
    #[serde(deserialize_with = "read_hashes")]
    leaves: Vec<Digest<32>>,
}

impl History {
    /// The history of a log whose first `from` entries have these subtrees, and whose further
    /// entries have these hashes.
    pub fn new(
        from: u64,
        frontier: Vec<Digest<32>>,
        leaves: Vec<Digest<32>>,
    ) -> Result<Self, HistoryError> {
        let subtrees = from.count_ones() as usize;
        let ends = from.checked_add(leaves.len() as u64).is_some();
        match frontier.len() == subtrees && leaves.len() <= MAX_HISTORY && ends {
            true => Ok(Self {
                from,
                frontier,
                leaves,
            }),
            false => Err(HistoryError),
        }
    }

    /// The end of the history of the log with these entries: its last `length` entries.
    pub fn of(leaves: &[Digest<32>], length: usize) -> Result<Self, HistoryError> {
        let from = leaves.len().saturating_sub(length.min(MAX_HISTORY));
        let (before, listed) = leaves.split_at(from);
        let mut tree = Peaks::default();
        before.iter().for_each(|leaf| tree.push(*leaf));
        Self::new(from as u64, tree.hashes, listed.to_vec())
    }

    /// The least size for which the root is known.
    #[must_use]
    pub const fn from(&self) -> u64 {
        self.from
    }

    /// Entries of the log.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.from + self.leaves.len() as u64
    }

    /// The root of the log when it had `size` entries, if the history reaches that far.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Digest<32>> {
        let listed = usize::try_from(size.checked_sub(self.from)?).ok()?;
        let mut tree = Peaks {
            count: self.from,
            hashes: self.frontier.clone(),
        };
        for leaf in self.leaves.get(..listed)? {
            tree.push(*leaf);
        }
        Some(tree.root())
    }
}

impl TryFrom<Fields> for History {
    type Error = HistoryError;

    fn try_from(fields: Fields) -> Result<Self, HistoryError> {
        Self::new(fields.from, fields.frontier, fields.leaves)
    }
}

/// Roots of the full subtrees of a tree that grows, largest first.
#[derive(Default)]
struct Peaks {
    count: u64,
    hashes: Vec<Digest<32>>,
}

impl Peaks {
    fn push(&mut self, leaf: Digest<32>) {
        let mut hash = leaf;
        // Each one at the end of the count is a full subtree as large as the one to be joined.
        for _ in 0..self.count.trailing_ones() {
            if let Some(left) = self.hashes.pop() {
                hash = node_hash(left, hash);
            }
        }
        self.hashes.push(hash);
        self.count += 1;
    }

    fn root(&self) -> Digest<32> {
        let mut peaks = self.hashes.iter().rev();
        match peaks.next() {
            Some(last) => peaks.fold(*last, |right, left| node_hash(*left, right)),
            None => Digest::sha256(b""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::merkle::{leaf_hash, tests::root};
    use super::*;

    #[test]
    fn a_history_gives_every_root_that_it_reaches_and_no_other() {
        let leaves: Vec<_> = (0..40u8).map(|i| leaf_hash(&[i])).collect();
        for size in 0..=leaves.len() {
            for length in [0, 1, 2, 5, 8, 40, 4096] {
                let history = History::of(&leaves[..size], length).unwrap();
                assert_eq!(history.size(), size as u64);
                for at in 0..=leaves.len() {
                    let reached = (history.from()..=history.size()).contains(&(at as u64));
                    let expected = reached.then(|| root(&leaves[..at]));
                    assert_eq!(history.root_at(at as u64), expected, "{size} {length} {at}");
                }
            }
        }
    }

    #[test]
    fn what_no_log_can_have_is_no_history() {
        let hash = Digest::ZERO;
        for (from, frontier, leaves) in [
            (0, 1, 0),
            (1, 0, 0),
            (3, 1, 5),
            (7, 4, 0),
            (u64::MAX, 64, 1),
            (0, 0, MAX_HISTORY + 1),
        ] {
            let made = History::new(from, vec![hash; frontier], vec![hash; leaves]);
            assert_eq!(made, Err(HistoryError), "{from}");
        }
        assert!(History::new(0, Vec::new(), vec![hash; MAX_HISTORY]).is_ok());
        let text = "{\"from\":1,\"frontier\":[],\"leaves\":[]}";
        assert!(serde_json::from_str::<History>(text).is_err());
    }
}

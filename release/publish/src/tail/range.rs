//! The beginning of a tree of hashes, as the roots of its full subtrees (RFC 6962, section 2.1).

use attest::Digest;
use attest::release::merkle::node_hash;

/// The first entries of a log: one root for each bit that is set in their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    size: u64,
    roots: Vec<Digest<32>>,
}

impl Range {
    /// From its parts, if they fit.
    #[must_use]
    pub fn of(size: u64, roots: Vec<Digest<32>>) -> Option<Self> {
        (size.count_ones() as usize == roots.len()).then_some(Self { size, roots })
    }

    /// How many entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots, the largest subtree first.
    #[must_use]
    pub fn roots(&self) -> &[Digest<32>] {
        &self.roots
    }

    /// Adds a full subtree of 2^`level` entries. The number of entries before must be a multiple of
    /// that.
    pub fn push(&mut self, root: Digest<32>, level: u32) {
        let (mut hash, mut bits) = (root, self.size >> level);
        while bits & 1 == 1 {
            let Some(left) = self.roots.pop() else { break };
            hash = node_hash(left, hash);
            bits >>= 1;
        }
        self.roots.push(hash);
        self.size += 1 << level;
    }

    /// The root over all entries.
    #[must_use]
    pub fn root(&self) -> Digest<32> {
        let mut roots = self.roots.iter().rev().copied();
        match roots.next() {
            None => Digest::sha256(b""),
            Some(last) => roots.fold(last, |right, left| node_hash(left, right)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use attest::release::merkle::{leaf_hash, verify_inclusion};

    use super::*;

    fn of(leaves: &[Digest<32>]) -> Range {
        let mut range = Range::default();
        leaves.iter().for_each(|leaf| range.push(*leaf, 0));
        range
    }

    #[test]
    fn subtrees_and_leaves_give_the_same_roots() {
        let leaves: Vec<_> = (0..100u8).map(|byte| leaf_hash(&[byte])).collect();
        assert_eq!(Range::default().root(), Digest::sha256(b""));
        assert_eq!(of(&leaves[..1]).root(), leaves[0]);
        for size in 1..leaves.len() {
            let whole = of(&leaves[..size]);
            assert_eq!(whole.roots().len(), size.count_ones() as usize);
            for from in 0..size {
                let mut range = of(&leaves[..from]);
                while range.size() < size as u64 {
                    let (at, rest) = (range.size(), size as u64 - range.size());
                    let level = at.trailing_zeros().min(rest.ilog2());
                    let at = at as usize;
                    range.push(of(&leaves[at..at + (1 << level)]).root(), level);
                }
                assert_eq!(range, whole);
            }
        }
        // Against the other definition that there is here.
        let two = of(&leaves[..2]).root();
        assert!(verify_inclusion(0, 2, leaves[0], &[leaves[1]], two));
        let range = of(&leaves[..5]);
        assert_eq!(Range::of(5, range.roots().to_vec()), Some(range.clone()));
        assert_eq!(Range::of(7, range.roots().to_vec()), None);
    }
}

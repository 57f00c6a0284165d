//! The log's tree (RFC 6962, section 2.1; proofs as in RFC 9162, section 2.1.3.2).
//!
//! ```text
//! leaf = SHA-256(0x00 ‖ entry)      node = SHA-256(0x01 ‖ left ‖ right)
//! ```
//!
//! An entry is the canonical JSON of a release's envelope.

use sha2::{Digest as _, Sha256};

use crate::Digest;

/// Longest inclusion proof: the depth of a tree of 2^63 entries.
pub const MAX_PROOF: usize = 63;

/// Hash of an entry.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Digest<32> {
    Digest(
        Sha256::new()
            .chain_update([0])
            .chain_update(entry)
            .finalize()
            .into(),
    )
}

/// Hash of two subtrees.
#[must_use]
pub fn node_hash(left: Digest<32>, right: Digest<32>) -> Digest<32> {
    Digest(
        Sha256::new()
            .chain_update([1])
            .chain_update(left)
            .chain_update(right)
            .finalize()
            .into(),
    )
}

/// Whether `proof` leads from `leaf` at `index` to the `root` of a tree of `size` entries.
#[must_use]
pub fn verify_inclusion(
    index: u64,
    size: u64,
    leaf: Digest<32>,
    proof: &[Digest<32>],
    root: Digest<32>,
) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node % 2 == 1 || node == last {
            hash = node_hash(*sibling, hash);
            while node % 2 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(hash, *sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The definition of RFC 6962, section 2.1, word for word.
    pub(in super::super) fn root(leaves: &[Digest<32>]) -> Digest<32> {
        match leaves {
            [] => Digest::sha256(b""),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len()));
                node_hash(root(left), root(right))
            }
        }
    }

    fn proof(index: usize, leaves: &[Digest<32>]) -> Vec<Digest<32>> {
        if leaves.len() < 2 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        let (mut path, sibling) = if index < left.len() {
            (proof(index, left), root(right))
        } else {
            (proof(index - left.len(), right), root(left))
        };
        path.push(sibling);
        path
    }

    fn split(count: usize) -> usize {
        count.next_power_of_two() / 2
    }

    #[test]
    fn every_entry_of_small_logs_is_proved_and_nothing_else_is() {
        let leaves: Vec<_> = (0..33u8).map(|i| leaf_hash(&[i])).collect();
        for size in 1..=leaves.len() {
            let leaves = &leaves[..size];
            let (root, size) = (root(leaves), size as u64);
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = proof(index, leaves);
                let index = index as u64;
                assert!(verify_inclusion(index, size, *leaf, &proof, root));
                for other in (0..=size).filter(|other| *other != index) {
                    assert!(!verify_inclusion(other, size, *leaf, &proof, root));
                }
                let long = [&proof[..], &[root]].concat();
                assert!(!verify_inclusion(index, size, *leaf, &long, root));
                if let Some((_, short)) = proof.split_last() {
                    assert!(!verify_inclusion(index, size, *leaf, short, root));
                }
            }
        }
    }

    /// Hashes of RFC 6962's own test tree, as every implementation of it has them.
    #[test]
    fn hashes_are_those_of_the_specification() {
        let empty = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(leaf_hash(b"").to_string(), empty);
    }
}

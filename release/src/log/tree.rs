//! Roots and inclusion proofs of the log's tree (RFC 6962, section 2.1), made from its leaves.

use attest::Digest;
use attest::release::merkle::node_hash;

/// Root over leaf hashes.
pub(super) fn root(leaves: &[Digest<32>]) -> Digest<32> {
    match leaves {
        [] => Digest::sha256(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(root(left), root(right))
        }
    }
}

/// Proof that the leaf at `index` is in the tree, from its sibling upwards.
pub(super) fn proof(index: usize, leaves: &[Digest<32>]) -> Vec<Digest<32>> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = match index < left.len() {
        true => (proof(index, left), root(right)),
        false => (proof(index - left.len(), right), root(left)),
    };
    path.push(sibling);
    path
}

/// The largest power of two that is less than `count`.
pub(super) fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use attest::release::merkle::{leaf_hash, verify_inclusion};

    use super::*;

    #[test]
    fn proofs_verify_for_every_size_and_place() {
        let leaves: Vec<_> = (0..70u8).map(|byte| leaf_hash(&[byte])).collect();
        for size in 1..=leaves.len() {
            let (leaves, total) = (&leaves[..size], root(&leaves[..size]));
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = proof(index, leaves);
                assert!(verify_inclusion(
                    index as u64,
                    size as u64,
                    *leaf,
                    &proof,
                    total
                ));
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_specification() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(root(&[]).to_string(), empty);
        // RFC 6962 test data: leaves "", 00, 10.
        let leaves: Vec<_> = [&b""[..], &[0x00], &[0x10]].map(leaf_hash).to_vec();
        let three = "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77";
        assert_eq!(root(&leaves).to_string(), three);
    }
}

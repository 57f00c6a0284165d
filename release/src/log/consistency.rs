//! Proofs that a log of some size continues one that was smaller (RFC 6962, section 2.1.2; checked
//! as in RFC 9162, section 2.1.4.2).

use attest::Digest;
use attest::release::merkle::node_hash;

use super::tree::{root, split};

/// Longest proof, as witnesses accept it (C2SP tlog-witness).
pub const MAX_PROOF: usize = 63;

/// Proof that the log of these leaves continues its first `old`; `None` where there are fewer. It
/// is empty where nothing is to be shown: from 0, or to the very same size.
#[must_use]
pub fn prove(old: u64, leaves: &[Digest<32>]) -> Option<Vec<Digest<32>>> {
    let old = usize::try_from(old)
        .ok()
        .filter(|old| *old <= leaves.len())?;
    Some(match old {
        0 => Vec::new(),
        _ => subproof(old, leaves, true),
    })
}

/// Whether `proof` leads from the log of `old` entries to the one of `size`.
#[must_use]
pub fn verify(
    (old, old_root): (u64, Digest<32>),
    (size, root): (u64, Digest<32>),
    proof: &[Digest<32>],
) -> bool {
    if old == 0 || old >= size {
        // Nothing came before; or nothing came since.
        let same = old < size || (old, old_root) == (size, root);
        return proof.is_empty() && same && (old > 0 || old_root == Digest::sha256(b""));
    }
    // A full subtree is its own beginning, and is not repeated in the proof.
    let own = old.is_power_of_two().then_some(old_root);
    let mut nodes = own.iter().chain(proof);
    let Some(first) = nodes.next() else {
        return false;
    };
    let shift = (old - 1).trailing_ones();
    let (mut node, mut last) = ((old - 1) >> shift, (size - 1) >> shift);
    let (mut before, mut after) = (*first, *first);
    for sibling in nodes {
        if last == 0 {
            return false;
        }
        if node % 2 == 1 || node == last {
            before = node_hash(*sibling, before);
            after = node_hash(*sibling, after);
            while node % 2 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            after = node_hash(after, *sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && before == old_root && after == root
}

/// SUBPROOF of the RFC: `whole` says whether the root of the first `old` leaves is known.
fn subproof(old: usize, leaves: &[Digest<32>], whole: bool) -> Vec<Digest<32>> {
    if old == leaves.len() {
        return if whole {
            Vec::new()
        } else {
            vec![root(leaves)]
        };
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut proof, sibling) = match old <= left.len() {
        true => (subproof(old, left, whole), root(right)),
        false => (subproof(old - left.len(), right, false), root(left)),
    };
    proof.push(sibling);
    proof
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use attest::release::merkle::leaf_hash;

    use super::*;

    fn leaves(count: u8) -> Vec<Digest<32>> {
        (0..count).map(|byte| leaf_hash(&[byte])).collect()
    }

    #[test]
    fn every_step_of_small_logs_is_proved_and_nothing_else_is() {
        let all = leaves(40);
        let other = root(&leaves(41)[1..]);
        for size in 0..=all.len() {
            let now = (size as u64, root(&all[..size]));
            for old in 0..=size {
                let before = (old as u64, root(&all[..old]));
                let proof = prove(old as u64, &all[..size]).unwrap();
                assert!(proof.len() <= MAX_PROOF);
                assert!(verify(before, now, &proof), "{old} to {size}");
                assert!(!verify((before.0, other), now, &proof), "{old} to {size}");
                assert!(!verify(before, (now.0, other), &proof) || old == 0);
                let long = [&proof[..], &[other]].concat();
                assert!(!verify(before, now, &long), "{old} to {size}");
                if let Some((_, short)) = proof.split_last() {
                    assert!(!verify(before, now, short), "{old} to {size}");
                }
                if old < size && old > 0 {
                    assert!(!verify(now, before, &proof), "{size} back to {old}");
                }
            }
            assert_eq!(prove(size as u64 + 1, &all[..size]), None);
        }
    }

    /// RFC 6962's example: PROOF(3, D[7]) = [c, d, g, l] and PROOF(6, D[7]) = [i, j, k].
    #[test]
    fn proofs_are_those_of_the_specification() {
        let all = leaves(7);
        let (c, d) = (all[2], all[3]);
        let (g, l) = (root(&all[..2]), root(&all[4..]));
        assert_eq!(prove(3, &all).unwrap(), [c, d, g, l]);
        assert_eq!(prove(4, &all).unwrap(), [l]);
        let (i, j, k) = (root(&all[4..6]), all[6], root(&all[..4]));
        assert_eq!(prove(6, &all).unwrap(), [i, j, k]);
    }
}

//! Sampling by sorting: another way to the token that the kernel finds by counting.

use std::cmp::Reverse;

use super::exp;
use crate::launch::Choice;

/// A weight of 1.
const ONE: f32 = 1_099_511_627_776.0; // 2^40

/// The token of one row; the vocabulary's size where nothing can be chosen.
pub fn sample(
    logits: &[f32],
    allowed: Option<&[u32]>,
    counts: Option<&[i32]>,
    choice: &Choice,
) -> u32 {
    let choice = &choice.clamped();
    let adjusted: Vec<f32> = (0..logits.len())
        .map(|token| adjust(token, logits[token], allowed, counts, choice))
        .collect();
    let mut best = None;
    for (token, x) in adjusted.iter().enumerate() {
        let better = best.is_none_or(|best: usize| *x > adjusted[best]);
        if better && *x != f32::NEG_INFINITY {
            best = Some(token);
        }
    }
    let Some(best) = best else {
        return logits.len() as u32;
    };
    let highest = adjusted[best];
    let warm = choice.temperature > 0.0;
    if !warm || highest == f32::INFINITY {
        return best as u32;
    }
    let least = ((choice.min_p * ONE) as u64).max(1);
    let weight = |x: f32| (exp((x - highest) / choice.temperature) * ONE) as u64;
    let mut kept: Vec<(usize, u64)> = adjusted
        .iter()
        .enumerate()
        .filter(|(_, x)| **x != f32::NEG_INFINITY)
        .map(|(token, x)| (token, weight(*x)))
        .filter(|(_, weight)| *weight >= least)
        .collect();
    kept.sort_by_key(|(token, _)| Reverse(order(adjusted[*token])));
    if choice.top_k > 0 {
        cut(&mut kept, &adjusted, choice.top_k.into(), |_| 1);
    }
    if choice.top_p < 1.0 {
        let total: u64 = kept.iter().map(|(_, weight)| weight).sum();
        let target = (total as f64 * f64::from(choice.top_p)) as u64;
        cut(&mut kept, &adjusted, target.max(1), |weight| weight);
    }
    kept.sort_unstable();
    let total: u64 = kept.iter().map(|(_, weight)| weight).sum();
    let random = philox(choice.seed, choice.position);
    let target = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let mut reached = 0;
    let found = kept.iter().find(|(_, weight)| {
        reached += weight;
        reached > target
    });
    found.map_or(logits.len(), |(token, _)| *token) as u32
}

fn adjust(
    token: usize,
    logit: f32,
    allowed: Option<&[u32]>,
    counts: Option<&[i32]>,
    choice: &Choice,
) -> f32 {
    if allowed.is_some_and(|bits| bits[token / 32] >> (token % 32) & 1 == 0) {
        return f32::NEG_INFINITY;
    }
    let mut x = logit;
    if let Some(count) = counts
        .map(|counts| counts[token])
        .filter(|count| *count > 0)
    {
        x = if x > 0.0 {
            x / choice.repetition
        } else {
            x * choice.repetition
        };
        x = x - choice.presence - choice.frequency * count as f32;
    }
    if x.is_nan() { f32::NEG_INFINITY } else { x }
}

/// Keeps the first of a sorted list that reach `target` together, and the last one's equals.
fn cut(kept: &mut Vec<(usize, u64)>, logits: &[f32], target: u64, measure: impl Fn(u64) -> u64) {
    let mut reached = 0;
    let last = kept.iter().position(|(_, weight)| {
        reached += measure(*weight);
        reached >= target
    });
    if let Some(last) = last.map(|index| logits[kept[index].0]) {
        kept.retain(|(token, _)| logits[*token] >= last);
    }
}

/// Unsigned numbers in the order of floats.
pub(super) fn order(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// 64 bits of Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
fn philox(seed: u64, position: u64) -> u64 {
    let mut counter = [position as u32, (position >> 32) as u32, 0, 0];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key[0] = key[0].wrapping_add(0x9E37_79B9);
        key[1] = key[1].wrapping_add(0xBB67_AE85);
    }
    u64::from(counter[0]) << 32 | u64::from(counter[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_its_authors_vectors() {
        assert_eq!(philox(0, 0), 0x6627_e8d5_e169_c58d);
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.0, 3f32.ln(), 3f32.ln(), f32::NAN, f32::NEG_INFINITY];
        let drawn = |change: fn(&mut Choice)| {
            let mut seen = std::collections::BTreeSet::new();
            for position in 0..300 {
                let mut choice = Choice {
                    temperature: 1.0,
                    position,
                    ..Choice::GREEDY
                };
                change(&mut choice);
                seen.insert(sample(&logits, None, None, &choice));
            }
            seen.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(drawn(|_| ()), [0, 1, 2]);
        assert_eq!(drawn(|choice| choice.top_k = 1), [1, 2]);
        assert_eq!(drawn(|choice| choice.top_p = 0.8), [1, 2]);
        assert_eq!(drawn(|choice| choice.min_p = 0.5), [1, 2]);
        assert_eq!(drawn(|choice| choice.temperature = 0.0), [1]);
        let count = [0, 0, 9, 0, 0];
        let frequent = Choice {
            frequency: 1.0,
            ..Choice::GREEDY
        };
        assert_eq!(sample(&logits[1..], None, Some(&count[1..]), &frequent), 0);
        assert_eq!(sample(&logits, Some(&[0b10001]), None, &Choice::GREEDY), 0);
        assert_eq!(sample(&logits, Some(&[0]), None, &Choice::GREEDY), 5);
        assert_eq!(sample(&[f32::NAN], None, None, &Choice::GREEDY), 1);
    }
}

//! From a distribution to a token.
//!
//! Chance comes from a counter-based generator keyed by the request's seed and counted by the
//! token's position, so that a sampled answer is replayable from any point and does not depend on
//! what else the engine does.

use std::cmp::Ordering;

use crate::request::Sampling;

/// Chooses the token for `position` of its sequence.
pub(crate) fn sample(logits: &[f32], sampling: &Sampling, position: u64) -> u32 {
    let best = most_likely(logits);
    let top = logits[best as usize];
    if sampling.temperature <= 0.0 || !top.is_finite() {
        return best;
    }
    let temperature = f64::from(sampling.temperature);
    let weight = |logit: f32| match logit.is_nan() {
        true => 0.0,
        false => libm::exp((f64::from(logit) - f64::from(top)) / temperature),
    };
    let mut choices: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(token, logit)| (token as u32, weight(*logit)))
        .collect();
    if sampling.top_p < 1.0 {
        keep_nucleus(&mut choices, f64::from(sampling.top_p));
    }
    let total: f64 = choices.iter().map(|(_, weight)| weight).sum();
    let target = uniform(sampling.seed, position) * total;
    let mut reached = 0.0;
    for (token, weight) in choices {
        reached += weight;
        if reached > target {
            return token;
        }
    }
    best
}

/// The first of the highest; what is not a number never wins.
fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] || logits[best].is_nan() {
            best = token;
        }
    }
    best as u32
}

/// Keeps the fewest of the likeliest choices that hold `top_p` of the weight.
fn keep_nucleus(choices: &mut Vec<(u32, f64)>, top_p: f64) {
    choices.sort_unstable_by(|a, b| {
        b.1.partial_cmp(&a.1)
            .unwrap_or(Ordering::Equal)
            .then(a.0.cmp(&b.0))
    });
    let total: f64 = choices.iter().map(|(_, weight)| weight).sum();
    let mut held = 0.0;
    let kept = choices.iter().position(|(_, weight)| {
        held += weight;
        held >= top_p * total
    });
    choices.truncate(kept.map_or(choices.len(), |last| last + 1));
}

/// A number in `0.0..1.0` with 53 random bits.
fn uniform(seed: u64, position: u64) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, 0, 0];
    let [a, b, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 * (-53f64).exp2()
}

/// Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product0 = u64::from(counter[0]) * 0xD251_1F53;
        let product1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_its_authors_vectors() {
        let zero = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(philox([0; 4], [0; 2]), zero);
        let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), ones);
        let pi = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), pi);
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        assert_eq!(sample(&[1.0, 3.0, 3.0], &Sampling::GREEDY, 0), 1);
        assert_eq!(sample(&[f32::NAN, -1.0, f32::NAN], &Sampling::GREEDY, 0), 1);
        assert_eq!(sample(&[f32::NAN], &Sampling::GREEDY, 0), 0);
    }

    #[test]
    fn frequencies_follow_the_distribution_and_the_seed_decides() {
        let logits = [0.0f32, 3f32.ln(), f32::NAN, f32::NEG_INFINITY];
        let draw = |seed, top_p| {
            let sampling = Sampling {
                temperature: 1.0,
                top_p,
                seed,
            };
            let draws = (0..4_000).map(|position| sample(&logits, &sampling, position));
            draws.collect::<Vec<_>>()
        };
        let draws = draw(7, 1.0);
        assert!(draws.iter().all(|token| *token < 2));
        let ones = draws.iter().filter(|token| **token == 1).count();
        assert!((2_900..3_100).contains(&ones), "{ones}");
        assert_eq!(draws, draw(7, 1.0));
        assert_ne!(draws, draw(8, 1.0));
        // Token 1 holds three quarters of the weight.
        assert!(draw(7, 0.7).iter().all(|token| *token == 1));
        assert!(draw(7, 0.8).contains(&0));
    }

    #[test]
    fn extreme_temperatures_stay_sound() {
        for temperature in [f32::MIN_POSITIVE, 1e-6, 2.0] {
            let sampling = Sampling {
                temperature,
                top_p: 0.5,
                seed: 1,
            };
            assert!(sample(&[-1e30, 5.0, 1e30], &sampling, 3) == 2);
        }
    }
}

//! From a distribution to a token.
//!
//! Chance comes from a counter-based generator keyed by the request's seed and counted by the
//! token's position, so that a sampled answer is replayable from any point and does not depend on
//! what else the engine does.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::request::Sampling;

/// The logits after biases, and after penalties for what was generated.
pub(crate) fn adjust(
    logits: &[f32],
    sampling: &Sampling,
    bias: &[(u32, f32)],
    generated: &[u32],
) -> Option<Vec<f32>> {
    let Sampling {
        presence_penalty: presence,
        frequency_penalty: frequency,
        ..
    } = *sampling;
    if bias.is_empty() && presence == 0.0 && frequency == 0.0 {
        return None;
    }
    let mut adjusted = logits.to_vec();
    for (token, bias) in bias {
        if let Some(logit) = adjusted.get_mut(*token as usize) {
            *logit += bias;
        }
    }
    let mut counts = BTreeMap::new();
    for token in generated {
        *counts.entry(*token).or_insert(0u32) += 1;
    }
    for (token, count) in counts {
        if let Some(logit) = adjusted.get_mut(token as usize) {
            *logit -= presence + frequency * count as f32;
        }
    }
    Some(adjusted)
}

/// The logarithms of the probabilities of one token, and of the `count` likeliest ones.
pub(crate) fn logprobs(logits: &[f32], taken: u32, count: usize) -> (f32, Vec<(u32, f32)>) {
    let top = f64::from(logits[most_likely(logits) as usize]);
    let weights = logits.iter().filter(|logit| !logit.is_nan());
    let total = weights
        .map(|logit| libm::exp(f64::from(*logit) - top))
        .sum::<f64>();
    let total = libm::log(total) + top;
    let logprob = |token: u32| (f64::from(logits[token as usize]) - total) as f32;
    let is_number = |token: &u32| !logits[*token as usize].is_nan();
    let mut order: Vec<u32> = (0..logits.len() as u32).filter(is_number).collect();
    let likelier = |a: &u32, b: &u32| {
        let (x, y) = (logits[*a as usize], logits[*b as usize]);
        y.total_cmp(&x).then(a.cmp(b))
    };
    let count = count.min(order.len());
    if count < order.len() {
        order.select_nth_unstable_by(count, likelier);
        order.truncate(count);
    }
    order.sort_by(likelier);
    let likeliest = order.into_iter().map(|token| (token, logprob(token)));
    (logprob(taken), likeliest.collect())
}

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
    // The likeliest one's weight is 1.
    choices.retain(|(_, weight)| *weight >= f64::from(sampling.min_p));
    if sampling.top_k > 0 && (sampling.top_k as usize) < choices.len() {
        likeliest_first(&mut choices);
        choices.truncate(sampling.top_k as usize);
    }
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

fn likeliest_first(choices: &mut [(u32, f64)]) {
    choices.sort_unstable_by(|a, b| {
        b.1.partial_cmp(&a.1)
            .unwrap_or(Ordering::Equal)
            .then(a.0.cmp(&b.0))
    });
}

/// Keeps the fewest of the likeliest choices that hold `top_p` of the weight.
fn keep_nucleus(choices: &mut Vec<(u32, f64)>, top_p: f64) {
    likeliest_first(choices);
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
                ..Sampling::GREEDY
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
    fn cuts_keep_only_the_likeliest() {
        let logits = [2.0, 1.9, 1.0, -3.0];
        let taken = |top_k, min_p| {
            let sampling = Sampling {
                temperature: 2.0,
                top_k,
                min_p,
                ..Sampling::GREEDY
            };
            let draws = (0..500).map(|position| sample(&logits, &sampling, position));
            draws.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(taken(0, 0.0), [0, 1, 2, 3].into());
        assert_eq!(taken(2, 0.0), [0, 1].into());
        assert_eq!(taken(0, 0.5), [0, 1, 2].into());
        assert_eq!(taken(0, 1.0), [0].into());
    }

    #[test]
    fn biases_and_penalties_move_logits() {
        let sampling = Sampling {
            presence_penalty: 1.0,
            frequency_penalty: 0.25,
            ..Sampling::GREEDY
        };
        let bias = [(1, 2.0), (3, -100.0), (9, 1.0)];
        let moved = adjust(&[0.0; 4], &sampling, &bias, &[2, 0, 2]);
        assert_eq!(moved, Some(vec![-1.25, 2.0, -1.5, -100.0]));
        assert_eq!(adjust(&[0.0; 4], &Sampling::GREEDY, &[], &[2]), None);
    }

    #[test]
    fn logprobs_are_those_of_the_softmax() {
        let logits = [1f32.ln(), 5f32.ln(), f32::NAN, 2f32.ln()];
        let (taken, likeliest) = logprobs(&logits, 3, 2);
        assert!((taken - 0.25f32.ln()).abs() < 1e-6);
        assert_eq!(
            likeliest
                .iter()
                .map(|(token, _)| *token)
                .collect::<Vec<_>>(),
            [1, 3]
        );
        assert!((likeliest[0].1 - 0.625f32.ln()).abs() < 1e-6);
        assert_eq!(logprobs(&logits, 0, 0).1, []);
        assert_eq!(logprobs(&logits[..2], 0, 20).1.len(), 2);
    }

    #[test]
    fn extreme_temperatures_stay_sound() {
        for temperature in [f32::MIN_POSITIVE, 1e-6, 2.0] {
            let sampling = Sampling {
                temperature,
                top_p: 0.5,
                seed: 1,
                ..Sampling::GREEDY
            };
            assert!(sample(&[-1e30, 5.0, 1e30], &sampling, 3) == 2);
        }
    }
}

//! Around the choice of tokens: the same operations, row by row.

use super::exp;
use super::sample::order;
use crate::launch::{Entry, LIKELIEST, Record};

/// Threads of a block, which share the sum of powers.
const THREADS: usize = 256;

/// Applies entries to one row.
pub fn adjust(logits: &mut [f32], entries: &[Entry]) {
    for entry in entries {
        if let Some(logit) = logits.get_mut(entry.token as usize) {
            *logit = *logit + entry.bias - entry.penalty;
        }
    }
}

/// What is reported of a row whose logits are finite.
pub fn note(logits: &[f32], token: u32, wanted: u32) -> Record {
    let place = |index: usize| u64::from(order(logits[index])) << 32 | u64::from(!(index as u32));
    let mut places: Vec<usize> = (0..logits.len()).collect();
    places.sort_by_key(|index| std::cmp::Reverse(place(*index)));
    // Minus zero is zero.
    let likely = |index: usize| (index as u32, logits[index] + 0.0);
    let highest = places.first().map_or(0.0, |index| likely(*index).1);
    let taken = logits.get(token as usize).copied();
    let mut record = Record {
        token,
        not_finite: logits.iter().any(|logit| !logit.is_finite()),
        nothing: taken.is_none(),
        taken: taken.unwrap_or(0.0),
        highest,
        total: 0.0,
        likeliest: Vec::new(),
    };
    if wanted == u32::MAX {
        return record;
    }
    for thread in 0..THREADS {
        let own = logits.iter().skip(thread).step_by(THREADS);
        record.total += own.map(|x| f64::from(exp(x - highest))).sum::<f64>();
    }
    let count = (wanted as usize).min(LIKELIEST);
    record.likeliest = places.into_iter().take(count).map(likely).collect();
    record
}

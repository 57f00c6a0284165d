//! Which level of vector instructions to use: the one that is fastest here.
//!
//! What a processor announces and what it does well differ: an emulator (QEMU without KVM) offers
//! AVX2 and runs it three times slower than the baseline. A short race at start decides. In a draw
//! the widest wins. So the
//! baseline, whose bits differ from the others', wins on emulators alone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::level::Level;
use super::{Format, Pool, Product, Rows, linear};

const ROWS: usize = 32;
const COLUMNS: usize = 256;
const TOKENS: usize = 16;
/// The best of these counts: others may be disturbed, and an emulator translates in the first.
const ROUNDS: usize = 7;

impl Level {
    /// The level that wins the race. Takes microseconds, and some milliseconds when emulated.
    pub(crate) fn fastest() -> Self {
        let levels = Self::available();
        let times: Vec<Duration> = levels.iter().map(|level| race(*level)).collect();
        let best = times.iter().min().copied().unwrap_or_default();
        let mut wide_first = levels.iter().zip(&times).rev();
        let good = wide_first.find(|(_, time)| **time <= best + best / 4);
        good.map_or(Self::Baseline, |(level, _)| *level)
    }
}

/// The time of a small product of a matrix and some activations.
fn race(level: Level) -> Duration {
    // Sums have to be rounded: emulators are slow until the first inexact result, and fast after.
    let bytes: Vec<u8> = (0..ROWS * COLUMNS)
        .flat_map(|i| [(i % 251) as u8, 0x3e])
        .collect();
    let weight = Rows {
        bytes: &bytes,
        scales: &[],
        format: Format::Bf16,
        columns: COLUMNS,
    };
    let x: Vec<f32> = (0..TOKENS * COLUMNS)
        .map(|i| 1.0 / (1 + i) as f32)
        .collect();
    let mut out = vec![0.0; TOKENS * ROWS];
    let pool = Pool::alone(level);
    let rounds = (0..ROUNDS).map(|_| {
        let started = Instant::now();
        let product = Product {
            weight: black_box(weight),
            bias: None,
            out: black_box(&mut out),
        };
        linear(&pool, black_box(&x), &mut [product]);
        started.elapsed()
    });
    rounds.min().unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_race_has_a_winner_that_this_machine_can_run() {
        assert!(
            Level::available()
                .into_iter()
                .all(|level| race(level) < Duration::MAX)
        );
        assert!(Level::available().contains(&Level::fastest()));
    }
}

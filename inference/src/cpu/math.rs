//! Element-wise operations.

use super::level::leveled;
use super::vector::Isa;
use super::{LANES, Pool, dot, sum_lanes};

/// Elements that one thread takes at once.
const SHARE: usize = 1 << 14;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting it rounds to an integer.
const ROUND: f32 = 12_582_912.0;
/// Of the polynomial for e^x near 0, from x^7 down to x^2.
const TERMS: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// `e^x`, to within two units in the last place; 0 below -87.3. Plain operations only, so that it
/// vectorises and gives the same bits everywhere (the C library's does not).
#[inline(always)]
fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.3);
    let power = (clamped * LOG2_E + ROUND) - ROUND;
    let rest = (clamped - power * LN2_HIGH) - power * LN2_LOW;
    let mut sum = TERMS[0];
    for term in &TERMS[1..] {
        sum = sum * rest + term;
    }
    sum = sum * rest * rest + rest + 1.0;
    let scale = f32::from_bits(((power as i32 + 127) as u32) << 23);
    if x < -87.3 { 0.0 } else { sum * scale }
}

/// `a * b + c`, rounded twice, as in [`exp`].
#[inline(always)]
fn times_plus<V: Isa>(a: V::V, b: V::V, c: V::V) -> V::V {
    V::add(V::mul(a, b), c)
}

/// [`exp`] of sixteen numbers, with the same bits.
#[inline(always)]
pub(super) fn exp_lanes<V: Isa>(x: V::V) -> V::V {
    let clamped = V::min(V::max(x, V::splat(-87.3)), V::splat(88.3));
    let shifted = times_plus::<V>(clamped, V::splat(LOG2_E), V::splat(ROUND));
    let power = V::add(shifted, V::splat(-ROUND));
    let rest = times_plus::<V>(power, V::splat(-LN2_HIGH), clamped);
    let rest = times_plus::<V>(power, V::splat(-LN2_LOW), rest);
    let mut sum = V::splat(TERMS[0]);
    for term in &TERMS[1..] {
        sum = times_plus::<V>(sum, rest, V::splat(*term));
    }
    let sum = times_plus::<V>(V::mul(sum, rest), rest, rest);
    let sum = V::add(sum, V::splat(1.0));
    V::keep_above(x, -87.3, V::mul(sum, V::two_to(power)))
}

leveled! {
    /// `x / rms(x) * scale`, for each stretch of the scale's own size.
    pub(super) fn rms_norm(x: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
        let rows = x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len()));
        for (x, out) in rows {
            let mean = dot::<V>(x, x) / x.len() as f32;
            let factor = 1.0 / (mean + epsilon).sqrt();
            for ((out, value), scale) in out.iter_mut().zip(x).zip(scale) {
                *out = scale * (value * factor);
            }
        }
    }
}

/// [`rms_norm`] on all threads.
pub(crate) fn norms(pool: &Pool, x: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
    let part = (SHARE / scale.len()).max(1) * scale.len();
    let parts = x.chunks(part).zip(out.chunks_mut(part));
    pool.for_each(parts, x.len() <= SHARE, |(x, out)| {
        rms_norm(pool.level, x, scale, epsilon, out);
    });
}

/// Calls `work` for stretches of both, on all threads.
fn pairs(pool: &Pool, x: &mut [f32], y: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync) {
    let alone = x.len() <= SHARE;
    let parts = x.chunks_mut(SHARE).zip(y.chunks(SHARE));
    pool.for_each(parts, alone, |(x, y)| work(x, y));
}

/// `silu(gate) * up`, into `gate`.
pub(crate) fn gate(pool: &Pool, gate: &mut [f32], up: &[f32]) {
    pairs(pool, gate, up, |gate, up| silu_part(pool.level, gate, up));
}

/// `gelu(gate) * up`, into `gate`, with gelu's approximation by tanh.
pub(crate) fn gelu_gate(pool: &Pool, gate: &mut [f32], up: &[f32]) {
    pairs(pool, gate, up, |gate, up| gelu_part(pool.level, gate, up));
}

/// `gate * sigmoid(alpha * gate) * (up + 1)`, into `gate`; both are cut at `limit`, the gate from
/// above only.
pub(crate) fn clamped_gate(pool: &Pool, gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
    pairs(pool, gate, up, |gate, up| {
        clamped_part(pool.level, gate, up, alpha, limit);
    });
}

/// `x += y`.
pub(crate) fn add(pool: &Pool, x: &mut [f32], y: &[f32]) {
    pairs(pool, x, y, |x, y| add_part(pool.level, x, y));
}

leveled! {
    fn silu_part(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

leveled! {
    fn gelu_part(gate: &mut [f32], up: &[f32]) {
        /// `2 * sqrt(2 / pi)`
        const SLOPE: f32 = 1.595_769;
        for (gate, up) in gate.iter_mut().zip(up) {
            let x = *gate;
            // (1 + tanh(y)) / 2 = 1 / (1 + e^-2y)
            let twice = SLOPE * (x + 0.044_715 * x * x * x);
            *gate = x / (1.0 + exp(-twice)) * up;
        }
    }
}

leveled! {
    fn clamped_part(gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
        for (gate, up) in gate.iter_mut().zip(up) {
            let cut = gate.min(limit);
            let up = up.clamp(-limit, limit);
            *gate = (up + 1.0) * (cut / (1.0 + exp(-(cut * alpha))));
        }
    }
}

leveled! {
    /// `cap * tanh(x / cap)`.
    pub(crate) fn cap(x: &mut [f32], cap: f32) {
        for x in x {
            let small = exp(-2.0 * (*x / cap).abs());
            *x = cap * ((1.0 - small) / (1.0 + small)).copysign(*x);
        }
    }
}

/// Leaves `e^(score - max)` in place; answers their sum. A sink takes part and leaves nothing.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32], sink: Option<f32>) -> f32 {
    let start = sink.unwrap_or(f32::NEG_INFINITY);
    let max = scores.iter().fold(start, |max, score| max.max(*score));
    let mut lanes = [0.0; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp(*score - max);
            *lane += *score;
        }
    }
    let total = sum_lanes(lanes);
    match sink {
        Some(sink) => total + exp(sink - max),
        None => total,
    }
}

leveled! {
    fn add_part(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Level;
    use crate::cpu::vector::Separate;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0f64;
        for step in -870_000..=880_000 {
            let x = step as f32 / 10_000.0;
            let expected = libm::exp(f64::from(x));
            worst = worst.max((f64::from(exp(x)) / expected - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1000.0).is_finite());
    }

    #[test]
    fn activations_are_close_to_their_definitions() {
        let x: Vec<f32> = (-400..=400).map(|i| i as f32 / 20.0).collect();
        let mut gelu = x.clone();
        gelu_part(Level::Baseline, &mut gelu, &vec![1.0; x.len()]);
        let mut capped = x.clone();
        cap(Level::Baseline, &mut capped, 5.0);
        let mut clamped = x.clone();
        let up: Vec<f32> = x.iter().map(|x| -x).collect();
        clamped_part(Level::Baseline, &mut clamped, &up, 1.702, 7.0);
        for (i, x) in x.iter().map(|x| f64::from(*x)).enumerate() {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let expected = 0.5 * x * (1.0 + inner.tanh());
            assert!((f64::from(gelu[i]) - expected).abs() < 4e-6, "gelu {x}");
            let expected = 5.0 * (x / 5.0).tanh();
            assert!((f64::from(capped[i]) - expected).abs() < 2e-6, "cap {x}");
            let (gate, up) = (x.min(7.0), (-x).clamp(-7.0, 7.0));
            let expected = (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp());
            assert!(
                (f64::from(clamped[i]) - expected).abs() < 2e-5,
                "clamped {x}"
            );
        }
    }

    #[test]
    fn sixteen_at_once_are_as_one() {
        for step in (-140_000..=140_000).step_by(7) {
            let x = std::array::from_fn(|lane| (step + lane as i32 * 3) as f32 / 1_500.0);
            let lanes = sixteen(x);
            assert_eq!(lanes.map(f32::to_bits), x.map(|x| exp(x).to_bits()));
        }
        assert_eq!(sixteen([f32::NEG_INFINITY; LANES]), [0.0; LANES]);
    }

    fn sixteen(x: [f32; LANES]) -> [f32; LANES] {
        Separate::store(exp_lanes::<Separate>(Separate::load(&x)))
    }

    #[test]
    fn a_sink_takes_its_share() {
        let mut scores = [0.0, 0.0];
        assert_eq!(softmax(&mut scores, None), 2.0);
        let mut scores = [0.0, 0.0];
        assert_eq!(softmax(&mut scores, Some(0.0)), 3.0);
        let mut scores = [-50.0];
        assert!(softmax(&mut scores, Some(50.0)) >= 1.0 && scores[0] < 1e-40);
    }

    #[test]
    fn a_norm_has_unit_size() {
        let x: Vec<f32> = (0..37).map(|i| i as f32 - 11.0).collect();
        let mut out = vec![0.0; 37];
        rms_norm(Level::Baseline, &x, &[1.0; 37], 0.0, &mut out);
        let mean = out.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 37.0;
        assert!((mean - 1.0).abs() < 1e-6);
    }
}

//! Element-wise operations.

use super::level::leveled;
use super::{LANES, dot, sum_lanes};

/// `e^x`, to within two units in the last place; 0 below -87.3. Plain operations only, so that it
/// vectorises and gives the same bits everywhere (the C library's does not).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding and subtracting it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;

    let clamped = x.clamp(-87.3, 88.3);
    let power = (clamped * LOG2_E + ROUND) - ROUND;
    let rest = (clamped - power * LN2_HIGH) - power * LN2_LOW;
    let mut sum = 1.987_569_1e-4;
    sum = sum * rest + 1.398_199_9e-3;
    sum = sum * rest + 8.333_452e-3;
    sum = sum * rest + 4.166_579_6e-2;
    sum = sum * rest + 1.666_666_5e-1;
    sum = sum * rest + 0.5;
    sum = sum * rest * rest + rest + 1.0;
    let scale = f32::from_bits(((power as i32 + 127) as u32) << 23);
    if x < -87.3 { 0.0 } else { sum * scale }
}

/// `x / rms(x) * scale`.
pub(crate) fn rms_norm(x: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
    let mean = dot(x, x) / x.len() as f32;
    let factor = 1.0 / (mean + epsilon).sqrt();
    for ((out, value), scale) in out.iter_mut().zip(x).zip(scale) {
        *out = scale * (value * factor);
    }
}

leveled! {
    /// `silu(gate) * up`, into `gate`.
    pub(crate) fn gate(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

leveled! {
    /// `gelu(gate) * up`, into `gate`, with gelu's approximation by tanh.
    pub(crate) fn gelu_gate(gate: &mut [f32], up: &[f32]) {
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
    /// `gate * sigmoid(alpha * gate) * (up + 1)`, into `gate`; both are cut at `limit`, the gate
    /// from above only.
    pub(crate) fn clamped_gate(gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
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

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Level;

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
        gelu_gate(Level::Baseline, &mut gelu, &vec![1.0; x.len()]);
        let mut capped = x.clone();
        cap(Level::Baseline, &mut capped, 5.0);
        let mut clamped = x.clone();
        let up: Vec<f32> = x.iter().map(|x| -x).collect();
        clamped_gate(Level::Baseline, &mut clamped, &up, 1.702, 7.0);
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
        rms_norm(&x, &[1.0; 37], 0.0, &mut out);
        let mean = out.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 37.0;
        assert!((mean - 1.0).abs() < 1e-6);
    }
}

//! Attention and products in `f64`, with the bound on a kernel's roundings.

use super::Bounded;
use crate::Bf16;
use crate::launch::{Attention, Gemm};

/// Half a unit in the last place of bf16, relative.
const HALF_ULP: f64 = 1.0 / 256.0;

/// One query of one head with the keys and values of its whole sequence, `[positions][dim]`.
pub struct AttentionInput<'a> {
    /// `[dim]`.
    pub query: &'a [Bf16],
    /// The query's position.
    pub position: usize,
    /// The key of a position.
    pub key: &'a dyn Fn(usize) -> &'a [Bf16],
    /// The value of a position.
    pub value: &'a dyn Fn(usize) -> &'a [Bf16],
    /// Of the head.
    pub sink: Option<f32>,
}

/// `softmax(query · keys * scale) · values` over what the query sees.
///
/// Tolerance: weights are rounded to bf16 before they meet the values, and the result once more:
/// each at most half a unit. Scores are exact products summed in `f32`, then a power of two by an
/// approximation: relative errors of `2^-23` times a few hundred, which a tenth more covers, and an
/// absolute one of the score's size times `2^-22`.
pub fn attention(attention: Attention, input: &AttentionInput<'_>) -> Vec<Bounded> {
    let window = attention.window.unwrap_or(usize::MAX);
    let first = (input.position + 1).saturating_sub(window);
    let mut size = 0.0f64;
    let scores: Vec<f64> = (first..=input.position)
        .map(|position| {
            let products = input.query.iter().zip((input.key)(position));
            let (mut dot, mut all) = (0.0, 0.0);
            for (q, k) in products {
                let product = f64::from(q.to_f32()) * f64::from(k.to_f32());
                dot += product;
                all += product.abs();
            }
            size = size.max(all * f64::from(attention.scale));
            let score = dot * f64::from(attention.scale);
            match attention.cap.map(f64::from) {
                Some(cap) => cap * (score / cap).tanh(),
                None => score,
            }
        })
        .collect();
    let sink = input.sink.map_or(f64::NEG_INFINITY, f64::from);
    let top = scores.iter().fold(sink, |top, score| top.max(*score));
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = weights.iter().sum::<f64>() + (sink - top).exp();
    // Of the scores, and of a cap's difference from one.
    let slack = (size + top.abs() + attention.cap.map_or(0.0, f64::from)) * 2f64.powi(-20);
    (0..input.query.len())
        .map(|element| {
            let (mut value, mut all) = (0.0, 0.0);
            for (weight, position) in weights.iter().zip(first..) {
                let x = weight / total * f64::from((input.value)(position)[element].to_f32());
                value += x;
                all += x.abs();
            }
            Bounded {
                value,
                tolerance: 1.1 * HALF_ULP * (all + value.abs()) + 2.0 * slack * all + 1e-30,
            }
        })
        .collect()
}

/// One element of `left · right`, plus `bias`.
///
/// Tolerance: each of the `k` additions rounds to `f32`, by at most a unit of the sum of absolute
/// products (tensor cores cut off what plain arithmetic rounds); the result once to bf16.
pub fn gemm(shape: Gemm, left: &[Bf16], right: &[Bf16], bias: Option<Bf16>, wide: bool) -> Bounded {
    let start = bias.map_or(0.0, |bias| f64::from(bias.to_f32()));
    let (mut value, mut all) = (start, start.abs());
    for (a, b) in left.iter().zip(right) {
        let product = f64::from(a.to_f32()) * f64::from(b.to_f32());
        value += product;
        all += product.abs();
    }
    let sums = (shape.k + 1) as f64 * 2f64.powi(-23) * all;
    let rounding = if wide { 0.0 } else { HALF_ULP * value.abs() };
    Bounded {
        value,
        tolerance: 1.01 * rounding + sums + 1e-30,
    }
}

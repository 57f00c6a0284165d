//! Norms, rotation, gates, embedding: the kernels' operations in the kernels' order.

use super::exp;
use crate::Bf16;
use crate::launch::{Activation, Norm};

const THREADS: usize = 256;

/// The sum of 32 lanes by a butterfly, as every lane of a warp has it.
fn butterfly(mut lanes: [f32; 32]) -> f32 {
    for mask in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|lane| lanes[lane] + lanes[lane ^ mask]);
    }
    lanes[0]
}

/// One row: `residual += delta`; answers the normalised row.
pub fn rms_norm(
    norm: Norm,
    residual: &mut [Bf16],
    delta: Option<&[Bf16]>,
    weight: &[Bf16],
) -> Vec<Bf16> {
    for (x, more) in residual.iter_mut().zip(delta.into_iter().flatten()) {
        *x = Bf16::from_f32(x.to_f32() + more.to_f32());
    }
    let mut threads = [0.0f32; THREADS];
    for (index, eight) in residual.chunks(8).enumerate() {
        for x in eight {
            threads[index % THREADS] += x.to_f32() * x.to_f32();
        }
    }
    let warps = threads.chunks_exact(32).map(|warp| {
        let mut lanes = [0.0; 32];
        lanes.copy_from_slice(warp);
        butterfly(lanes)
    });
    let total = warps.fold(0.0, |sum, warp| sum + warp);
    let factor = 1.0 / (total / residual.len() as f32 + norm.epsilon).sqrt();
    let scaled = residual
        .iter()
        .zip(weight)
        .map(|(x, weight)| Bf16::from_f32(x.to_f32() * factor * (norm.offset + weight.to_f32())));
    scaled.collect()
}

/// One head of one token, normalised if there is a norm, and turned.
pub fn rope_head(
    head: &[Bf16],
    norm: Option<(Norm, &[Bf16])>,
    cosine: &[f32],
    sine: &[f32],
) -> Vec<Bf16> {
    let half = head.len() / 2;
    let mut x: Vec<f32> = head.iter().map(|x| x.to_f32()).collect();
    if let Some((norm, weight)) = norm {
        let mut lanes = [0.0f32; 32];
        for (lane, place) in (0..half).step_by(8).enumerate() {
            for start in [place, half + place] {
                x[start..start + 8]
                    .iter()
                    .for_each(|x| lanes[lane] += x * x);
            }
        }
        let factor = 1.0 / (butterfly(lanes) / head.len() as f32 + norm.epsilon).sqrt();
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = *x * factor * (norm.offset + weight.to_f32());
        }
    }
    let first = (0..half).map(|i| x[i] * cosine[i] - x[half + i] * sine[i]);
    let second = (0..half).map(|i| x[half + i] * cosine[i] + x[i] * sine[i]);
    first.chain(second).map(Bf16::from_f32).collect()
}

/// One element.
pub fn gate(activation: Activation, gate: Bf16, up: Bf16) -> Bf16 {
    let x = gate.to_f32();
    let power = match activation {
        Activation::Silu => -x,
        Activation::GeluTanh => -(1.595_769 * (x + 0.044_715 * x * x * x)),
    };
    Bf16::from_f32(x / (1.0 + exp(power)) * up.to_f32())
}

/// One token's row; NaN for a token that the table does not have.
pub fn embed(table: &[Bf16], columns: usize, id: u32, scale: f32) -> Vec<Bf16> {
    let row = table.chunks_exact(columns).nth(id as usize);
    let Some(row) = row else {
        return vec![Bf16(0x7fff); columns];
    };
    let scaled = |x: &Bf16| Bf16::from_f32(x.to_f32() * scale);
    row.iter().map(scaled).collect()
}

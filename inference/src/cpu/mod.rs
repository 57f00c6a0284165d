//! Arithmetic on the CPU, with the same bits on every x86-64 machine.
//!
//! Every sum has one fixed order: [`LANES`] running sums, element `i` going to lane `i % LANES`,
//! combined in one fixed tree. A row of weights times an activation is computed in that order
//! whether the activation comes alone or with others, so neither the batch, nor the chunking, nor
//! the number of threads can change a bit. Where the processor rounds a product and a sum together
//! (AVX2 with FMA, AVX-512), all levels of instructions agree; the baseline, which only emulators
//! use, rounds twice and has bits of its own.

mod affine;
mod amx;
mod attention;
mod choose;
mod format;
mod level;
mod linear;
mod math;
mod mxfp4;
mod pool;
mod vector;

pub(crate) use affine::{
    RECORD as AFFINE_RECORD, are_numbers as are_float8, groups as affine_groups, half_bytes,
};
pub(crate) use attention::{Heads, Query, attend};
pub(crate) use format::{Format, Rows, from_f16, widen};
pub(crate) use level::Level;
pub(crate) use linear::{Product, all_finite, linear};
pub(crate) use math::{add, cap, clamped_gate, gate, gelu_gate, norms, softmax};
pub(crate) use mxfp4::BLOCK as MXFP4_BLOCK;
pub(crate) use pool::Pool;
use vector::{Isa, Lanes};

/// Running sums of one dot product.
pub(crate) const LANES: usize = 16;

/// The last elements of a row, with zeros after them.
#[inline(always)]
fn padded(rest: &[f32]) -> Lanes {
    let mut lanes = [0.0; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

/// Adds the lanes in one fixed tree.
#[inline(always)]
fn sum_lanes(mut lanes: Lanes) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// A dot product in the fixed order.
#[inline(always)]
fn dot<V: Isa>(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks();
    let (b, b_rest) = b.as_chunks();
    let mut sums = V::splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sums = V::multiply_add(sums, V::load(a), V::load(b));
    }
    if !a_rest.is_empty() {
        sums = V::multiply_add(sums, V::load(&padded(a_rest)), V::load(&padded(b_rest)));
    }
    V::total(sums)
}

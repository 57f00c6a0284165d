//! Arithmetic on the CPU, with the same bits on every x86-64 machine.
//!
//! Every sum has one fixed order: [`LANES`] running sums, element `i` going to lane `i % LANES`,
//! combined in one fixed tree. A row of weights times an activation is computed in that order
//! whether the activation comes alone or with others, so neither the batch, nor the chunking, nor
//! the number of threads can change a bit. Products and sums are rounded separately (no fused
//! multiply-add), so the baseline, AVX2 and AVX-512 versions of one source agree, too.

mod attention;
mod choose;
mod level;
mod linear;
mod math;
mod mxfp4;
mod pool;

pub(crate) use attention::{Heads, Query, attend};
pub(crate) use level::Level;
pub(crate) use linear::{Rows, all_finite, linear, row_bytes, widen};
pub(crate) use math::{add, cap, clamped_gate, gate, gelu_gate, rms_norm, softmax};
pub(crate) use mxfp4::BLOCK as MXFP4_BLOCK;
pub(crate) use pool::Pool;

/// Running sums of one dot product.
pub(crate) const LANES: usize = 16;

/// One running sum for each lane. Passed by value: arrays that are only indexed by constants are
/// what the compiler keeps in vector registers.
type Lanes = [f32; LANES];

#[inline(always)]
fn multiply_add(sums: Lanes, a: &Lanes, b: &Lanes) -> Lanes {
    std::array::from_fn(|lane| sums[lane] + a[lane] * b[lane])
}

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
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks();
    let (b, b_rest) = b.as_chunks();
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        sums = multiply_add(sums, a, b);
    }
    if !a_rest.is_empty() {
        sums = multiply_add(sums, &padded(a_rest), &padded(b_rest));
    }
    sum_lanes(sums)
}

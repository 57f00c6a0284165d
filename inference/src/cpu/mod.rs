//! Arithmetic on the CPU, with the same bits on every x86-64 machine.
//!
//! Every sum has one fixed order: [`LANES`] running sums, element `i` going to lane `i % LANES`,
//! combined in one fixed tree. A row of weights times an activation is computed in that order
//! whether the activation comes alone or with others, so neither the batch, nor the chunking, nor
//! the number of threads can change a bit. Products and sums are rounded separately (no fused
//! multiply-add), so the baseline, AVX2 and AVX-512 versions of one source agree, too.

mod attention;
mod level;
mod linear;
mod math;
mod pool;

pub(crate) use attention::{Heads, Query, attend};
pub(crate) use level::Level;
pub(crate) use linear::{Rows, all_finite, linear, widen};
pub(crate) use math::{add, gate, rms_norm};
pub(crate) use pool::Pool;

/// Running sums of one dot product.
pub(crate) const LANES: usize = 16;

/// Adds the lanes in one fixed tree.
#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

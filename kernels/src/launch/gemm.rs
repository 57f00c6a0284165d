//! Activations by weights.

use super::{GRID_LIMIT, expect, optional, size};
use crate::{Argument, Bf16, Device, Element, Launch, LaunchError, Tensor};

/// Up to so many rows, reading the weights is what takes the time.
const FEW_ROWS: usize = 64;

/// `out[m][n] = left[m][k] · right[n][k]`.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of activations.
    pub m: usize,
    /// Rows of weights; a multiple of 8.
    pub n: usize,
    /// Columns of both; a multiple of 16.
    pub k: usize,
}

/// What the result may be held in.
pub trait GemmOutput: Element {
    /// Entries for few rows and for many.
    const KERNELS: [&'static str; 2];
}

impl GemmOutput for Bf16 {
    const KERNELS: [&'static str; 2] = ["gemm_few", "gemm_many"];
}

impl GemmOutput for f32 {
    const KERNELS: [&'static str; 2] = ["gemm_few_f32", "gemm_many_f32"];
}

/// `left` is `[m][k]`, `right` is `[n][k]`, `bias` is `[n]`, `out` is `[m][n]`. The shape of
/// tiles is chosen by `m`; the bits do not depend on it.
pub fn gemm<D: Device, T: GemmOutput>(
    device: &D,
    shape: Gemm,
    left: &Tensor<D::Memory, Bf16>,
    right: &Tensor<D::Memory, Bf16>,
    bias: Option<&Tensor<D::Memory, Bf16>>,
    out: &mut Tensor<D::Memory, T>,
) -> Result<(), LaunchError> {
    let Gemm { m, n, k } = shape;
    let few = m <= FEW_ROWS;
    let [tile_m, tile_n] = if few { [16, 32] } else { [128, 128] };
    let numbers = [
        size("a product's m", m, m.div_ceil(tile_m) <= GRID_LIMIT)?,
        size("a product's n", n, n.is_multiple_of(8))?,
        size("a product's k", k, k.is_multiple_of(16))?,
    ];
    expect("left", left, &[m, k])?;
    expect("right", right, &[n, k])?;
    expect("out", out, &[m, n])?;
    bias.map_or(Ok(()), |bias| expect("bias", bias, &[n]))?;
    let mut arguments = vec![
        left.argument(),
        right.argument(),
        optional(bias),
        out.argument(),
    ];
    arguments.extend(numbers.map(Argument::I32));
    device.launch(&Launch {
        kernel: T::KERNELS[usize::from(!few)],
        grid: [n.div_ceil(tile_n) as u32, m.div_ceil(tile_m) as u32, 1],
        threads: if few { 64 } else { 256 },
        // Stages of both tiles, whose rows have 8 elements more than they need.
        shared_bytes: if few {
            6 * 48 * 72 * 2
        } else {
            3 * 256 * 40 * 2
        },
        arguments,
    })?;
    Ok(())
}

//! The launchers: shapes are compared with every tensor's length before anything is started.
//!
//! What each kernel computes, in which order, and what bounds it stands at the head of its file in
//! `cuda/`.

mod attention;
mod gemm;
mod logits;
mod rows;
mod sample;
mod wipe;

pub use attention::{Attention, Rung, Scratch, decode, prefill, prefill_by};
pub use gemm::{Gemm, GemmOutput, gemm};
pub use logits::{Entry, LIKELIEST, Record, Rows, adjust, note};
pub use rows::{Activation, HeadNorms, Norm, Rope, embed, gate, rms_norm, rope};
pub use sample::{Choice, sample};
pub use wipe::wipe;

use crate::{Argument, Element, LaunchError, Tensor};

/// The grid's limit in its second and third direction.
const GRID_LIMIT: usize = 65_535;

/// Refuses a tensor that is not as long as its shape says.
fn expect<M, T: Element>(
    tensor: &'static str,
    given: &Tensor<M, T>,
    shape: &[usize],
) -> Result<(), LaunchError> {
    let product = shape
        .iter()
        .try_fold(1usize, |all, size| all.checked_mul(*size));
    let expected = product.unwrap_or(usize::MAX);
    match given.len() == expected {
        true => Ok(()),
        false => Err(LaunchError::Length {
            tensor,
            expected,
            found: given.len(),
        }),
    }
}

/// Refuses a size that `fits` says no to, or that an index in a kernel cannot hold.
fn size(what: &'static str, value: usize, fits: bool) -> Result<i32, LaunchError> {
    let number = i32::try_from(value).ok().filter(|_| fits && value > 0);
    number.ok_or(LaunchError::Unsupported { what, value })
}

fn optional<M, T: Element>(tensor: Option<&Tensor<M, T>>) -> Argument<'_, M> {
    tensor.map_or(Argument::Null, Tensor::argument)
}

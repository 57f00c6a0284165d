//! What each kernel must give, computed plainly on the CPU.
//!
//! Row-wise kernels and sampling use IEEE operations only, in a stated order: the reference has the
//! same bits. Products and attention are compared with sums in `f64`, within a bound that follows
//! from their roundings.

mod attention;
mod logits;
mod rows;
mod sample;

pub use attention::{AttentionInput, attention, gemm};
pub use logits::{adjust, note};
pub use rows::{embed, gate, rms_norm, rope_head};
pub use sample::sample;

/// A value with how far from it a kernel's may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    /// In exact arithmetic, nearly.
    pub value: f64,
    /// The sum of what the kernel's roundings can add up to.
    pub tolerance: f64,
}

/// `e^x` by IEEE operations only, to within two units in the last place; 0 below -87.3. The
/// kernels' `exact_exp` is this, operation by operation.
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.3);
    let power = (clamped * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let rest = (clamped - power * 0.693_359_4) - power * -2.121_944_4e-4;
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

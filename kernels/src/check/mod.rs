//! Compares a device's results with the references, on random shapes: a GPU's when there is one,
//! its emulation's in every test run. What is not compared with a reference bit for bit runs twice
//! and must give the same bits, and what a kernel says about batches is compared bit for bit.

mod attention;
mod logits;
mod rows;
mod sample;

pub use attention::{decode, gemm, prefill, rung};
pub use logits::{logits, wipe};
pub use rows::{embed, gate, rms_norm, rope};
pub use sample::sample;

use crate::reference::Bounded;
use crate::{Bf16, Device, DeviceError, LaunchError, PlanError, Tensor};

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It did not run.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It did not run.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The case itself is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A result is further from the reference than roundings explain.
    #[error("{kernel}: element {element} is {found}, and {expected} ± {tolerance} was expected")]
    Wrong {
        /// Which kernel.
        kernel: &'static str,
        /// Where.
        element: usize,
        /// By the device.
        found: f64,
        /// By the reference.
        expected: f64,
        /// Allowed.
        tolerance: f64,
    },
    /// Two runs that must give the same bits gave others.
    #[error("{kernel}: element {element} has other bits {when}")]
    Unsteady {
        /// Which kernel.
        kernel: &'static str,
        /// Where.
        element: usize,
        /// What was different between the runs.
        when: &'static str,
    },
}

/// How near a device came: the largest error as a share of what is allowed, over all elements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nearness {
    /// 0 for the same bits, at most 1.
    pub worst: f64,
    /// How many were compared.
    pub elements: usize,
}

/// Numbers that a seed decides (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }

    /// From `low` to `high`, both included.
    pub fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.bits() % (high - low + 1) as u64) as usize
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0, choices.len() - 1)]
    }

    /// From `-size` to `size`.
    pub fn float(&mut self, size: f32) -> f32 {
        ((self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
    }

    /// So many, from `-size` to `size`.
    pub fn halves(&mut self, count: usize, size: f32) -> Vec<Bf16> {
        (0..count)
            .map(|_| Bf16::from_f32(self.float(size)))
            .collect()
    }
}

/// What a kernel gave, against a reference with tolerances.
fn near(
    kernel: &'static str,
    found: impl IntoIterator<Item = f32>,
    expected: impl IntoIterator<Item = Bounded>,
) -> Result<Nearness, CheckError> {
    let mut nearness = Nearness::default();
    for (element, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected.value).abs();
        // What is not a number is not within.
        let within = error <= expected.tolerance;
        if !within {
            return Err(CheckError::Wrong {
                kernel,
                element,
                found: found.into(),
                expected: expected.value,
                tolerance: expected.tolerance,
            });
        }
        nearness.worst = nearness.worst.max(error / expected.tolerance);
        nearness.elements += 1;
    }
    Ok(nearness)
}

/// Bit for bit.
fn same(
    kernel: &'static str,
    found: &[Bf16],
    expected: &[Bf16],
    when: &'static str,
) -> Result<Nearness, CheckError> {
    let pairs = found.iter().zip(expected);
    let differs = |(found, expected): (&Bf16, &Bf16)| found != expected;
    match pairs.clone().position(differs) {
        Some(element) => Err(CheckError::Unsteady {
            kernel,
            element,
            when,
        }),
        None => Ok(Nearness {
            worst: 0.0,
            elements: pairs.len(),
        }),
    }
}

fn floats(halves: &[Bf16]) -> impl Iterator<Item = f32> + '_ {
    halves.iter().map(|half| half.to_f32())
}

/// A tensor in which a place that is not written shows.
fn unwritten<D: Device>(device: &D, len: usize) -> Result<Tensor<D::Memory, Bf16>, DeviceError> {
    Tensor::from(device, &vec![Bf16(0x7fff); len])
}

//! From logits to tokens.

use super::{expect, optional, size};
use crate::{Argument, Device, DeviceError, Launch, LaunchError, Tensor};

/// How one row's token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// The fewest of the likeliest that hold this share are kept; 1 keeps all.
    pub top_p: f32,
    /// What is less likely than this share of the likeliest goes; 0 keeps all.
    pub min_p: f32,
    /// So many of the likeliest are kept, and their equals; 0 keeps all.
    pub top_k: u32,
    /// What has occurred: positive logits are divided by it, others multiplied.
    pub repetition: f32,
    /// Taken off what has occurred.
    pub presence: f32,
    /// Taken off for each time that it has.
    pub frequency: f32,
    /// Of the request.
    pub seed: u64,
    /// Of the token in its sequence.
    pub position: u64,
}

impl Choice {
    /// Bytes of one on the device.
    pub const BYTES: usize = 48;

    /// The likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        top_k: 0,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        seed: 0,
        position: 0,
    };

    /// With shares between 0 and 1; what is not a number filters nothing.
    pub(crate) fn clamped(self) -> Self {
        let share = |x: f32, none: f32| if x.is_nan() { none } else { x.clamp(0.0, 1.0) };
        Self {
            top_p: share(self.top_p, 1.0),
            min_p: share(self.min_p, 0.0),
            ..self
        }
    }

    /// As the kernel reads it.
    pub(crate) fn words(&self) -> [u32; 12] {
        let this = self.clamped();
        let low = |x: u64| x as u32;
        [
            this.temperature.to_bits(),
            this.top_p.to_bits(),
            this.min_p.to_bits(),
            this.top_k.min(i32::MAX as u32),
            this.repetition.to_bits(),
            this.presence.to_bits(),
            this.frequency.to_bits(),
            0,
            low(this.seed),
            low(this.seed >> 32),
            low(this.position),
            low(this.position >> 32),
        ]
    }

    /// Several, on the device.
    pub fn send<D: Device>(
        device: &D,
        choices: &[Self],
    ) -> Result<Tensor<D::Memory, u8>, DeviceError> {
        let words = choices.iter().flat_map(Self::words);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        Tensor::from(device, &bytes)
    }
}

/// One token for each row of `logits[rows][vocabulary]`; the vocabulary's size where nothing can be
/// chosen. `allowed` is `[rows][ceil(vocabulary / 32)]`, `counts` is `[rows][vocabulary]`.
pub fn sample<D: Device>(
    device: &D,
    vocabulary: usize,
    logits: &Tensor<D::Memory, f32>,
    allowed: Option<&Tensor<D::Memory, u32>>,
    counts: Option<&Tensor<D::Memory, i32>>,
    choices: &Tensor<D::Memory, u8>,
    out: &mut Tensor<D::Memory, u32>,
) -> Result<(), LaunchError> {
    // The sum of weights of 2^40 each stays below 2^64.
    let number = size("a vocabulary", vocabulary, vocabulary < 1 << 23)?;
    let rows = out.len();
    size("rows to sample", rows, true)?;
    expect("logits", logits, &[rows, vocabulary])?;
    expect("choices", choices, &[rows, Choice::BYTES])?;
    let words = vocabulary.div_ceil(32);
    allowed.map_or(Ok(()), |bits| expect("allowed", bits, &[rows, words]))?;
    counts.map_or(Ok(()), |counts| {
        expect("counts", counts, &[rows, vocabulary])
    })?;
    device.launch(&Launch {
        kernel: "sample",
        grid: [rows as u32, 1, 1],
        threads: 1024,
        shared_bytes: (256 + 2 + 32) * 8,
        arguments: vec![
            logits.argument(),
            optional(allowed),
            optional(counts),
            choices.argument(),
            out.argument(),
            Argument::I32(number),
        ],
    })?;
    Ok(())
}

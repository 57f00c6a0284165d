//! Around the choice of tokens: biases and penalties before it, what is reported after it.

use super::{expect, size};
use crate::{Argument, Device, DeviceError, Launch, LaunchError, Tensor};

/// Likeliest tokens that a record holds.
pub const LIKELIEST: usize = 20;

/// What is done to one token's logit before the choice; a row names no token twice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Which.
    pub token: u32,
    /// Added first.
    pub bias: f32,
    /// Taken off then.
    pub penalty: f32,
}

impl Entry {
    /// Bytes of one on the device.
    pub const BYTES: usize = 16;

    pub(crate) fn words(&self) -> [u32; 4] {
        [self.token, self.bias.to_bits(), self.penalty.to_bits(), 0]
    }
}

/// What is reported of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was chosen.
    pub token: u32,
    /// Some logit is infinite or not a number: nothing of this row is to be used.
    pub not_finite: bool,
    /// No token could be chosen.
    pub nothing: bool,
    /// The chosen token's logit, before biases and penalties, as all that follow.
    pub taken: f32,
    /// The highest.
    pub highest: f32,
    /// Of `e^(logit - highest)` over all tokens; 0 if probabilities were not asked for.
    pub total: f64,
    /// The likeliest tokens with their logits, the first first.
    pub likeliest: Vec<(u32, f32)>,
}

impl Record {
    /// Bytes of one on the device.
    pub const BYTES: usize = 32 + 8 * LIKELIEST;

    /// As the kernel wrote it.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let words = bytes.chunks_exact(4).map(|word| {
            let word = word.try_into().unwrap_or_default();
            u32::from_le_bytes(word)
        });
        let words: Vec<u32> = words.collect();
        let [
            token,
            faults,
            taken,
            highest,
            low,
            high,
            count,
            _,
            rest @ ..,
        ] = &words[..]
        else {
            return None;
        };
        let pairs = rest.chunks_exact(2).take(*count as usize);
        Some(Self {
            token: *token,
            not_finite: faults & 1 != 0,
            nothing: faults & 2 != 0,
            taken: f32::from_bits(*taken),
            highest: f32::from_bits(*highest),
            total: f64::from_bits(u64::from(*high) << 32 | u64::from(*low)),
            likeliest: pairs
                .map(|pair| (pair[0], f32::from_bits(pair[1])))
                .collect(),
        })
    }

    /// Reads them from the device: one copy.
    pub fn receive<D: Device>(
        device: &D,
        records: &Tensor<D::Memory, u8>,
    ) -> Result<Vec<Self>, DeviceError> {
        let bytes = records.read(device)?;
        Ok(bytes
            .chunks_exact(Self::BYTES)
            .filter_map(Self::of)
            .collect())
    }
}

/// What `adjust` and `note` work on: `logits` is `[rows][vocabulary]`, `starts` is `[rows + 1]`,
/// `entries` as [`Parcel::entries`](crate::Parcel::entries) sends them.
#[derive(Debug)]
pub struct Rows<'a, M> {
    /// Tokens of a row.
    pub vocabulary: usize,
    /// Changed in place, and put back.
    pub logits: &'a Tensor<M, f32>,
    /// Of `entries`.
    pub starts: &'a Tensor<M, u32>,
    /// At most as many as the last start says.
    pub entries: &'a Tensor<M, u8>,
}

impl<M> Rows<'_, M> {
    fn check(&self) -> Result<(usize, i32), LaunchError> {
        let number = size("a vocabulary", self.vocabulary, true)?;
        let rows = self.starts.len().saturating_sub(1);
        size("rows of logits", rows, true)?;
        expect("logits", self.logits, &[rows, self.vocabulary])?;
        Ok((rows, number))
    }
}

/// Applies the entries to the logits.
pub fn adjust<D: Device>(device: &D, rows: &Rows<'_, D::Memory>) -> Result<(), LaunchError> {
    let (count, vocabulary) = rows.check()?;
    device.launch(&Launch {
        kernel: "adjust",
        grid: [count as u32, 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: vec![
            rows.logits.argument(),
            rows.starts.argument(),
            rows.entries.argument(),
            Argument::I32(vocabulary),
        ],
    })?;
    Ok(())
}

/// Puts the logits back and reports each row: `tokens` is `[rows]`, `wanted` is `[rows]` (so many
/// of the likeliest; `u32::MAX` for no probability at all), `records` is `[rows]` of [`Record`].
pub fn note<D: Device>(
    device: &D,
    rows: &Rows<'_, D::Memory>,
    tokens: &Tensor<D::Memory, u32>,
    wanted: &Tensor<D::Memory, u32>,
    records: &mut Tensor<D::Memory, u8>,
) -> Result<(), LaunchError> {
    let (count, vocabulary) = rows.check()?;
    expect("tokens", tokens, &[count])?;
    expect("wanted", wanted, &[count])?;
    expect("records", records, &[count, Record::BYTES])?;
    device.launch(&Launch {
        kernel: "note",
        grid: [count as u32, 1, 1],
        threads: 256,
        shared_bytes: (8 + 256) * 8,
        arguments: vec![
            rows.logits.argument(),
            rows.starts.argument(),
            rows.entries.argument(),
            tokens.argument(),
            wanted.argument(),
            records.argument(),
            Argument::I32(vocabulary),
        ],
    })?;
    Ok(())
}

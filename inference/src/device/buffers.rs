//! Memory of a step, allocated once: no step allocates anything.

use kernels::launch::{Choice, Entry, Record, Scratch};
use kernels::{Bf16, Device, DeviceError, Inbox, Tensor};

use super::blocks_of;
use super::blueprint::Blueprint;

pub(super) struct Buffers<M> {
    pub(super) inbox: Inbox<M>,
    pub(super) hidden: Tensor<M, Bf16>,
    pub(super) normed: Tensor<M, Bf16>,
    /// Queries, keys and values of a token.
    pub(super) input: Tensor<M, Bf16>,
    pub(super) query: Tensor<M, Bf16>,
    pub(super) mixed: Tensor<M, Bf16>,
    pub(super) delta: Tensor<M, Bf16>,
    /// Gate and up.
    pub(super) gate: Tensor<M, Bf16>,
    pub(super) gated: Tensor<M, Bf16>,
    pub(super) scratch: Scratch<M>,
    /// Rows that a token is chosen for.
    pub(super) last: Tensor<M, Bf16>,
    pub(super) logits: Tensor<M, f32>,
    pub(super) tokens: Tensor<M, u32>,
    pub(super) records: Tensor<M, u8>,
}

impl<M> Buffers<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        print: &Blueprint,
    ) -> Result<Self, DeviceError> {
        let (tokens, dim) = (print.room.tokens, print.shape.dim);
        let queries = print.heads * dim.size();
        let widest = |of: fn(&super::blueprint::LayerPrint) -> usize| {
            print.layers.iter().map(of).max().unwrap_or(0)
        };
        let rows = |columns: usize| Tensor::empty(device, tokens * columns);
        let outs = print.room.draws;
        Ok(Self {
            inbox: Inbox::new(device, parcel_words(print))?,
            hidden: rows(print.hidden)?,
            normed: rows(print.hidden)?,
            input: rows(widest(|layer| layer.input.rows))?,
            query: rows(queries)?,
            mixed: rows(queries)?,
            delta: rows(print.hidden)?,
            gate: rows(widest(|layer| layer.gate.rows))?,
            gated: rows(widest(|layer| layer.down.columns))?,
            scratch: Scratch::new(device, outs, print.heads, dim, longest(print))?,
            last: Tensor::empty(device, outs * print.hidden)?,
            logits: Tensor::empty(device, outs * print.vocabulary)?,
            tokens: Tensor::empty(device, print.room.draws)?,
            records: Tensor::empty(device, print.room.draws * Record::BYTES)?,
        })
    }
}

/// Tokens of the widest table of blocks.
fn longest(print: &Blueprint) -> usize {
    let width = blocks_of(print.context_tokens).next_power_of_two();
    width * print.shape.page_tokens()
}

/// The largest parcel.
pub(super) fn parcel_words(print: &Blueprint) -> usize {
    let (tokens, draws) = (print.room.tokens, print.room.draws);
    let width = blocks_of(print.context_tokens).next_power_of_two();
    let plan = 1 + tokens * (2 + width + 2 + 2);
    let choices = draws * Choice::BYTES / 4;
    let entries = draws * print.room.entries * Entry::BYTES / 4;
    // Tokens, rows to choose for, starts of entries, wanted probabilities; and what is to be wiped.
    let others = 2 * tokens + 2 * draws + 1 + print.shape.blocks;
    let padding = 16 * 4;
    plan + choices + entries + others + padding
}

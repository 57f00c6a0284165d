//! The KV cache: one fixed allocation cut into blocks of [`BLOCK_TOKENS`] tokens.
//!
//! A block holds, for all layers, keys as `[kv_head][head_dim][token]` and values as
//! `[kv_head][token][head_dim]`. Memory is taken from the system at the first touch, and zeroed
//! when its owner gives it back.

use zeroize::Zeroize;

use crate::cpu::{Heads, LANES};
use crate::spec::DecoderSpec;

/// Tokens of one block.
pub(crate) const BLOCK_TOKENS: usize = LANES;

/// All blocks, and which of them are free.
pub(crate) struct KvCache {
    data: Vec<f32>,
    block_floats: usize,
    free: Vec<u32>,
    blocks: usize,
    /// Blocks whose content is elsewhere and still to be zeroed.
    freed: Option<Vec<u32>>,
}

impl KvCache {
    /// As many whole blocks as fit into `bytes`.
    pub(crate) fn new(spec: &DecoderSpec, bytes: u64) -> Self {
        let block_floats = block_floats(spec);
        let blocks = (bytes / block_bytes(spec)).min(u64::from(u32::MAX)) as u32;
        let data = vec![0.0; blocks as usize * block_floats];
        Self {
            data,
            block_floats,
            free: (0..blocks).rev().collect(),
            blocks: blocks as usize,
            freed: None,
        }
    }

    /// Blocks whose content a device holds: here are their numbers alone.
    #[cfg(feature = "cuda")]
    pub(crate) fn numbers(blocks: u32) -> Self {
        Self {
            data: Vec::new(),
            block_floats: 1,
            free: (0..blocks).rev().collect(),
            blocks: blocks as usize,
            freed: Some(Vec::new()),
        }
    }

    /// What the device is to zero before anything else is written.
    #[cfg(feature = "cuda")]
    pub(crate) fn take_freed(&mut self) -> Vec<u32> {
        self.freed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes the blocks for so many tokens, or none at all.
    pub(crate) fn take(&mut self, tokens: usize) -> Option<Vec<u32>> {
        let keep = self.free.len().checked_sub(tokens.div_ceil(BLOCK_TOKENS))?;
        Some(self.free.split_off(keep))
    }

    /// Blocks that so many tokens need.
    pub(crate) fn blocks_for(tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_TOKENS)
    }

    /// Takes what `blocks` lack for so many tokens, or nothing at all: false if that is too much.
    pub(crate) fn grow(&mut self, blocks: &mut Vec<u32>, tokens: usize) -> bool {
        let missing = Self::blocks_for(tokens).saturating_sub(blocks.len());
        let taken = self.take(missing * BLOCK_TOKENS);
        taken.map(|taken| blocks.extend(taken)).is_some()
    }

    /// Takes back, zeroed, what `blocks` hold beyond so many tokens.
    pub(crate) fn shrink(&mut self, blocks: &mut Vec<u32>, tokens: usize) {
        let beyond = blocks.split_off(blocks.len().min(Self::blocks_for(tokens)));
        self.give_back_all(beyond);
    }

    /// Takes blocks back and zeroes all of them.
    pub(crate) fn give_back_all(&mut self, blocks: Vec<u32>) {
        self.give_back(blocks, usize::MAX);
    }

    /// Takes blocks back and zeroes those that were written.
    pub(crate) fn give_back(&mut self, blocks: Vec<u32>, written_tokens: usize) {
        let written = blocks.iter().take(written_tokens.div_ceil(BLOCK_TOKENS));
        if let Some(freed) = &mut self.freed {
            freed.extend(written);
            self.free.extend(blocks);
            return;
        }
        for &block in written {
            let start = block as usize * self.block_floats;
            self.data[start..][..self.block_floats].zeroize();
        }
        self.free.extend(blocks);
    }

    /// Stores one token's keys and values of one layer.
    pub(crate) fn store(
        &mut self,
        layout: Heads,
        blocks: &[u32],
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let block = blocks[position / BLOCK_TOKENS] as usize * self.block_floats;
        let token = position % BLOCK_TOKENS;
        let head_floats = layout.head_dim * BLOCK_TOKENS;
        for (head, data) in keys.chunks_exact(layout.head_dim).enumerate() {
            let start = block + layout.keys + head * head_floats;
            let places = self.data[start..][..head_floats].iter_mut();
            let places = places.skip(token).step_by(BLOCK_TOKENS);
            places.zip(data).for_each(|(place, key)| *place = *key);
        }
        for (head, data) in values.chunks_exact(layout.head_dim).enumerate() {
            let start = block + layout.values + head * head_floats + token * layout.head_dim;
            self.data[start..][..layout.head_dim].copy_from_slice(data);
        }
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn free_blocks(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn used_blocks(&self) -> usize {
        self.blocks - self.free.len()
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        // Free blocks are zero already; an owner that ends without giving back leaves others.
        let mut used = vec![true; self.blocks];
        self.free
            .iter()
            .for_each(|block| used[*block as usize] = false);
        for (block, used) in self.data.chunks_exact_mut(self.block_floats).zip(used) {
            if used {
                block.zeroize();
            }
        }
    }
}

/// Bytes of one block.
pub(crate) fn block_bytes(spec: &DecoderSpec) -> u64 {
    block_floats(spec) as u64 * size_of::<f32>() as u64
}

/// Where each layer's keys and values lie in a block.
pub(crate) fn layouts(spec: &DecoderSpec) -> Vec<Heads> {
    let block_floats = block_floats(spec);
    let mut offset = 0;
    let layers = spec.layers.iter().map(|layer| {
        let attention = &layer.attention;
        let size = attention.kv_heads * attention.head_dim * BLOCK_TOKENS;
        let heads = Heads {
            heads: attention.heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.head_dim,
            scale: attention.scale,
            window: attention.window.unwrap_or(usize::MAX),
            block_floats,
            keys: offset,
            values: offset + size,
        };
        offset += 2 * size;
        heads
    });
    layers.collect()
}

fn block_floats(spec: &DecoderSpec) -> usize {
    let width =
        |layer: &crate::spec::LayerSpec| layer.attention.kv_heads * layer.attention.head_dim;
    2 * BLOCK_TOKENS * spec.layers.iter().map(width).sum::<usize>()
}

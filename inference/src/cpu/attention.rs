//! Attention of new tokens over a paged cache.

use super::level::leveled;
use super::{Pool, dot, softmax};

/// Where one layer's keys and values lie in the cache, and how its heads are grouped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// What a score is multiplied by.
    pub(crate) scale: f32,
    /// How many tokens one sees, itself included.
    pub(crate) window: usize,
    /// Floats of one block of the cache, all layers together.
    pub(crate) block_floats: usize,
    /// Tokens of one block.
    pub(crate) block_tokens: usize,
    /// Offset of this layer's keys in a block: `[kv_head][token][head_dim]`.
    pub(crate) keys: usize,
    /// Offset of this layer's values in a block.
    pub(crate) values: usize,
}

/// One query token: its place in its sequence, and the sequence's length and blocks.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) position: usize,
    pub(crate) length: usize,
    pub(crate) blocks: &'a [u32],
}

/// `out[token][head] = softmax(q · k * scale) · v` over the positions of the window that ends with
/// the token. `sinks` hold one more score for each head.
pub(crate) fn attend(
    pool: &Pool,
    layout: Heads,
    cache: &[f32],
    queries: &[Query<'_>],
    q: &[f32],
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    let seen = |query: &Query<'_>| layout.window.min(query.position + 1);
    let positions: usize = queries.iter().map(seen).sum();
    let alone = positions * layout.heads * layout.head_dim < 1 << 15;
    let heads = out
        .chunks_exact_mut(layout.head_dim)
        .zip(q.chunks_exact(layout.head_dim));
    pool.for_each(heads.enumerate(), alone, |(index, (out, q))| {
        let query = queries[index / layout.heads];
        let group = index % layout.heads / (layout.heads / layout.kv_heads);
        let sink = sinks.map(|sinks| sinks[index % layout.heads]);
        attend_head(pool.level, layout, cache, query, group, q, sink, out);
    });
}

leveled! {
    fn attend_head(
        layout: Heads,
        cache: &[f32],
        query: Query<'_>,
        kv_head: usize,
        q: &[f32],
        sink: Option<f32>,
        out: &mut [f32],
    ) {
        let Heads { head_dim, block_tokens, scale, .. } = layout;
        let end = query.position + 1;
        let first = end - layout.window.min(end);
        let head = |block: u32, offset: usize| {
            let start = block as usize * layout.block_floats + offset;
            &cache[start + kv_head * block_tokens * head_dim..][..block_tokens * head_dim]
        };
        // Which tokens of which blocks are in the window.
        let blocks = first / block_tokens..end.div_ceil(block_tokens);
        let parts = blocks.map(|index| {
            let start = index * block_tokens;
            let tokens = first.max(start) - start..end.min(start + block_tokens) - start;
            (query.blocks[index], tokens)
        });

        let mut scores = Vec::with_capacity(end - first);
        for (block, tokens) in parts.clone() {
            let keys = head(block, layout.keys);
            let keys = keys[tokens.start * head_dim..tokens.end * head_dim].chunks_exact(head_dim);
            scores.extend(keys.map(|key| dot(q, key) * scale));
        }

        let total = softmax(&mut scores, sink);

        out.fill(0.0);
        let mut weights = scores.as_slice();
        for (block, tokens) in parts {
            let values = head(block, layout.values);
            let values = values[tokens.start * head_dim..].chunks_exact(head_dim);
            let (own, rest) = weights.split_at(tokens.len());
            for (value, weight) in values.zip(own) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out += weight * value;
                }
            }
            weights = rest;
        }
        out.iter_mut().for_each(|out| *out /= total);
    }
}

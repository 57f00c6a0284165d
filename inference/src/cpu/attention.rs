//! Attention of new tokens over a paged cache.

use super::level::leveled;
use super::math::exp;
use super::{LANES, Pool, dot, sum_lanes};

/// Where one layer's keys and values lie in the cache, and how its heads are grouped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Floats of one block of the cache, all layers together.
    pub(crate) block_floats: usize,
    /// Tokens of one block.
    pub(crate) block_tokens: usize,
    /// Offset of this layer's keys in a block: `[kv_head][token][head_dim]`.
    pub(crate) keys: usize,
    /// Offset of this layer's values in a block.
    pub(crate) values: usize,
}

/// One query token: its place in its sequence, and the sequence's blocks.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) position: usize,
    pub(crate) blocks: &'a [u32],
}

/// `out[token][head] = softmax(q · k / sqrt(head_dim)) · v` over positions `0..=position`.
pub(crate) fn attend(
    pool: &Pool,
    layout: Heads,
    cache: &[f32],
    queries: &[Query<'_>],
    q: &[f32],
    out: &mut [f32],
) {
    let positions: usize = queries.iter().map(|query| query.position + 1).sum();
    let alone = positions * layout.heads * layout.head_dim < 1 << 15;
    let heads = out
        .chunks_exact_mut(layout.head_dim)
        .zip(q.chunks_exact(layout.head_dim));
    pool.for_each(heads.enumerate(), alone, |(index, (out, q))| {
        let query = queries[index / layout.heads];
        let group = index % layout.heads / (layout.heads / layout.kv_heads);
        attend_head(pool.level, layout, cache, query, group, q, out);
    });
}

leveled! {
    fn attend_head(
        layout: Heads,
        cache: &[f32],
        query: Query<'_>,
        kv_head: usize,
        q: &[f32],
        out: &mut [f32],
    ) {
        let Heads { head_dim, block_tokens, .. } = layout;
        let count = query.position + 1;
        let head = |block: u32, offset: usize| {
            let start = block as usize * layout.block_floats + offset;
            &cache[start + kv_head * block_tokens * head_dim..][..block_tokens * head_dim]
        };

        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut scores = Vec::with_capacity(count.next_multiple_of(block_tokens));
        for &block in query.blocks {
            let keys = head(block, layout.keys);
            let keys = keys.chunks_exact(head_dim).take(count - scores.len());
            scores.extend(keys.map(|key| dot(q, key) * scale));
            if scores.len() == count {
                break;
            }
        }

        let total = softmax(&mut scores);

        out.fill(0.0);
        for (&block, weights) in query.blocks.iter().zip(scores.chunks(block_tokens)) {
            let values = head(block, layout.values).chunks_exact(head_dim);
            for (value, weight) in values.zip(weights) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out += weight * value;
                }
            }
        }
        out.iter_mut().for_each(|out| *out /= total);
    }
}

/// Leaves `e^(score - max)` in place; answers their sum.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    let max = scores
        .iter()
        .fold(f32::NEG_INFINITY, |max, score| max.max(*score));
    let mut lanes = [0.0; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp(*score - max);
            *lane += *score;
        }
    }
    sum_lanes(lanes)
}

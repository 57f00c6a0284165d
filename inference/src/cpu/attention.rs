//! Attention of new tokens over a paged cache.

use std::ops::Range;

use super::level::leveled;
use super::math::exp_lanes;
use super::vector::{Isa, each};
use super::{LANES, Lanes, Pool, padded};

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
    /// The group of layers that see equally far, and which of its pages this one lies in.
    pub(crate) group: usize,
    pub(crate) unit: usize,
    /// Pages of a block of this group.
    pub(crate) units: usize,
    /// Floats of one page of the cache.
    pub(crate) page_floats: usize,
    /// Offset of this layer's keys in a page of [`LANES`] tokens: `[kv_head][head_dim][token]`.
    pub(crate) keys: usize,
    /// Offset of this layer's values in a page: `[kv_head][token][head_dim]`.
    pub(crate) values: usize,
}

impl Heads {
    /// Where the page of a block begins in the cache.
    #[inline(always)]
    pub(crate) fn page(&self, pages: &[u32], block: usize) -> usize {
        pages[block * self.units + self.unit] as usize * self.page_floats
    }
}

/// One query token: its place in its sequence, and the sequence's length and, for each group
/// of layers, its pages.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) position: usize,
    pub(crate) length: usize,
    pub(crate) blocks: &'a [Vec<u32>],
}

/// Rows of queries that pass over the cache together.
const TILE: usize = 4;
/// Tokens of a task, where there are many.
const RUN: usize = 4;

/// Some heads of some consecutive tokens of one sequence.
struct Task<'a> {
    queries: &'a [Query<'a>],
    kv_heads: Range<usize>,
    /// `[token][head]`, of the heads that read `kv_heads`.
    q: &'a [f32],
    sinks: Option<&'a [f32]>,
    out: &'a mut [f32],
}

/// One head of one token.
#[derive(Clone, Copy)]
struct Row<'a> {
    q: &'a [f32],
    /// The positions that it sees.
    first: usize,
    end: usize,
    sink: Option<f32>,
}

impl Row<'_> {
    /// Leaves nothing of the scores, from position `start` on, that the row does not see.
    #[inline(always)]
    fn hide(&self, start: usize, scores: &mut Lanes) {
        if self.first > start || self.end < start + LANES {
            for (lane, score) in scores.iter_mut().enumerate() {
                if !(self.first..self.end).contains(&(start + lane)) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }
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
    let width = layout.heads * layout.head_dim;
    let mut tasks = Vec::new();
    if queries.len() < 2 * RUN * pool.threads() {
        let group = layout.heads / layout.kv_heads;
        let part = group * layout.head_dim;
        let parts = out.chunks_exact_mut(part).zip(q.chunks_exact(part));
        for (index, (out, q)) in parts.enumerate() {
            let (token, kv_head) = (index / layout.kv_heads, index % layout.kv_heads);
            tasks.push(Task {
                queries: &queries[token..token + 1],
                kv_heads: kv_head..kv_head + 1,
                q,
                sinks,
                out,
            });
        }
    } else {
        let follows = |a: &Query<'_>, b: &Query<'_>| {
            std::ptr::eq(a.blocks, b.blocks) && a.position + 1 == b.position
        };
        let (mut rest, mut first) = (out, 0);
        for queries in queries.chunk_by(follows).flat_map(|run| run.chunks(RUN)) {
            let (out, after) = rest.split_at_mut(queries.len() * width);
            tasks.push(Task {
                queries,
                kv_heads: 0..layout.kv_heads,
                q: &q[first..first + out.len()],
                sinks,
                out,
            });
            (rest, first) = (after, first + queries.len() * width);
        }
    }
    pool.for_each(tasks.into_iter(), alone, |task| {
        attend_task(pool.level, layout, cache, task);
    });
}

leveled! {
    fn attend_task(layout: Heads, cache: &[f32], task: Task<'_>) {
        let group = layout.heads / layout.kv_heads;
        let head_dim = layout.head_dim;
        let width = task.kv_heads.len() * group * head_dim;
        let pages = task.queries[0].blocks[layout.group].as_slice();
        let mut scores = Vec::new();
        for kv_head in task.kv_heads.clone() {
            let count = task.queries.len() * group;
            // Where a row's numbers stand in `q` and `out`.
            let place = |row: usize| {
                let head = (kv_head - task.kv_heads.start) * group + row % group;
                row / group * width + head * head_dim
            };
            let row = |row: usize| {
                let end = task.queries[row / group].position + 1;
                Row {
                    q: &task.q[place(row)..][..head_dim],
                    first: end - layout.window.min(end),
                    end,
                    sink: task.sinks.map(|sinks| sinks[kv_head * group + row % group]),
                }
            };
            let mut start = 0;
            while start < count {
                let places = |index: usize| place(start + index);
                let out = &mut *task.out;
                let (head, scores) = ((layout, cache, pages, kv_head), &mut scores);
                start += match count - start {
                    1 => tile::<V, 1>(head, [row(start)], scores, out, places),
                    2 | 3 => {
                        let rows = [row(start), row(start + 1)];
                        tile::<V, 2>(head, rows, scores, out, places)
                    }
                    _ => {
                        let rows = std::array::from_fn(|index| row(start + index));
                        tile::<V, TILE>(head, rows, scores, out, places)
                    }
                };
            }
        }
    }
}

/// `N` rows that read the same head of the cache; answers `N`. Each row's sums have the same order
/// whichever rows it stands with: whole blocks, with nothing in place of what it does not see.
#[inline(always)]
fn tile<V: Isa, const N: usize>(
    (layout, cache, pages, kv_head): (Heads, &[f32], &[u32], usize),
    rows: [Row<'_>; N],
    scores: &mut Vec<Lanes>,
    out: &mut [f32],
    place: impl Fn(usize) -> usize,
) -> usize {
    let head_dim = layout.head_dim;
    let first = rows
        .iter()
        .fold(usize::MAX, |first, row| first.min(row.first))
        / LANES;
    let last = rows
        .iter()
        .fold(0, |end, row| end.max(row.end))
        .div_ceil(LANES);
    let head = |block: usize, offset: usize| {
        let start = layout.page(pages, block) + offset;
        &cache[start + kv_head * LANES * head_dim..][..LANES * head_dim]
    };
    scores.clear();
    for block in first..last {
        let keys = head(block, layout.keys).as_chunks::<LANES>().0;
        let mut sums = [V::splat(0.0); N];
        let q = rows.map(|row| &row.q[..keys.len()]);
        for (dim, keys) in keys.iter().enumerate() {
            let keys = V::load(keys);
            each!(ROW < N, {
                sums[ROW] = V::multiply_add(sums[ROW], keys, V::splat(q[ROW][dim]));
            });
        }
        let start = block * LANES;
        for (row, sums) in rows.iter().zip(sums) {
            let mut lanes = V::store(V::mul(sums, V::splat(layout.scale)));
            row.hide(start, &mut lanes);
            scores.push(lanes);
        }
    }
    let mut totals = [0.0; N];
    for row in 0..N {
        totals[row] = weigh::<V, N>(scores, row, rows[row].sink);
    }

    let mut dim = 0;
    while dim < head_dim {
        let count = if head_dim - dim >= 4 * LANES { 4 } else { 1 };
        let values = || (first..last).map(|block| head(block, layout.values));
        let mut write = |row: usize, dim: usize, lanes: &[f32]| {
            let out = &mut out[place(row) + dim..][..lanes.len()];
            for (out, lane) in out.iter_mut().zip(lanes) {
                // What is nothing has no sign: it may come from places that are not seen.
                *out = lane / totals[row] + 0.0;
            }
        };
        match count {
            4 => mix::<V, N, 4>(scores, values(), head_dim, dim, &mut write),
            _ => mix::<V, N, 1>(scores, values(), head_dim, dim, &mut write),
        }
        dim += count * LANES;
    }
    N
}

/// Leaves `e^(score - max)` in place for one row; answers their sum. A sink takes part and leaves
/// nothing.
#[inline(always)]
fn weigh<V: Isa, const N: usize>(scores: &mut [Lanes], row: usize, sink: Option<f32>) -> f32 {
    let start = sink.unwrap_or(f32::NEG_INFINITY);
    let mut highest = V::splat(start);
    for scores in scores.iter().skip(row).step_by(N) {
        highest = V::max(highest, V::load(scores));
    }
    let max = V::store(highest)
        .iter()
        .fold(start, |max, score| max.max(*score));
    let mut sums = V::splat(0.0);
    for scores in scores.iter_mut().skip(row).step_by(N) {
        let weights = exp_lanes::<V>(V::add(V::load(scores), V::splat(-max)));
        sums = V::add(sums, weights);
        *scores = V::store(weights);
    }
    let sink = sink.map_or(0.0, |sink| {
        V::store(exp_lanes::<V>(V::splat(sink - max)))[0]
    });
    V::total(sums) + sink
}

/// The values, weighted and added: `C` times [`LANES`] dimensions from `dim` on, or what is left.
#[inline(always)]
fn mix<'a, V: Isa, const N: usize, const C: usize>(
    weights: &[Lanes],
    values: impl Iterator<Item = &'a [f32]>,
    head_dim: usize,
    dim: usize,
    write: &mut impl FnMut(usize, usize, &[f32]),
) {
    let mut sums = [[V::splat(0.0); C]; N];
    let whole = dim + C * LANES <= head_dim;
    for (values, weights) in values.zip(weights.chunks_exact(N)) {
        for (token, values) in values.chunks_exact(head_dim).enumerate() {
            let mut lanes = [V::splat(0.0); C];
            each!(CHUNK < C, {
                let values = &values[dim + CHUNK * LANES..];
                lanes[CHUNK] = match values.first_chunk() {
                    Some(values) if whole => V::load(values),
                    _ => V::load(&padded(values)),
                };
            });
            each!(ROW < N, {
                let weight = V::splat(weights[ROW][token]);
                each!(CHUNK < C, {
                    sums[ROW][CHUNK] = V::multiply_add(sums[ROW][CHUNK], lanes[CHUNK], weight);
                });
            });
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (chunk, lanes) in sums.iter().enumerate() {
            let dim = dim + chunk * LANES;
            let lanes = V::store(*lanes);
            write(row, dim, &lanes[..LANES.min(head_dim - dim)]);
        }
    }
}

//! Weights times activations. Weights stay as they are stored and are widened on the way.

use super::affine::{self, Affine4, Affine8, Float8};
use super::amx::{self, Packed};
use super::format::{Bf16, Element, F16, F32, Int4, Int8, Mxfp4, Stream};
use super::level::leveled;
use super::vector::{Isa, Lanes, each};
use super::{Format, LANES, Level, Pool, Rows, mxfp4, padded};

/// Below this many products, waking a thread takes longer than the work.
const ALONE: usize = 1 << 16;
/// Rows of weights that share one pass over an activation.
const STREAMED_ROWS: usize = 4;
/// Blocks that are read in one go, a group's or fewer: what they need is asked for in advance.
const STRETCH: usize = 8;
/// Bytes that the memory hands over together.
const LINE: usize = 64;
/// Activations from which on rows are widened once for all.
const MANY: usize = 3;
/// The same where there are 32 registers.
const MANY_WIDE: usize = 9;
/// Columns that are widened at once: what eight rows of them take stays in the first-level cache.
const WIDENED: usize = 512;
/// Activations from which on threads own activations instead of rows.
const OWN_TOKENS: usize = 48;

/// `out[token][row] = weight[row] · x[token] + bias[row]`, of one or several matrices that read the
/// same activations: they cost one waking of the threads.
pub(crate) struct Product<'a> {
    pub(crate) weight: Rows<'a>,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) out: &'a mut [f32],
}

/// A part of a product: some rows and some activations.
pub(super) struct Task<'a> {
    pub(super) weight: Rows<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) x: &'a [f32],
    /// The number of the first activation.
    pub(super) first_token: usize,
    pub(super) out: &'a mut [f32],
    /// Whether `out` is `[row][token]`.
    pub(super) turned: bool,
    /// All activations once more, where tiles compute.
    pub(super) packed: Option<&'a Packed>,
}

/// Activations that products share.
#[derive(Clone, Copy)]
struct Given<'a> {
    x: &'a [f32],
    tokens: usize,
    packed: Option<&'a Packed>,
}

/// Computes products of the same activations.
pub(crate) fn linear(pool: &Pool, x: &[f32], products: &mut [Product<'_>]) {
    let Some(columns) = products.first().map(|product| product.weight.columns) else {
        return;
    };
    let tokens = x.len() / columns;
    if tokens == 0 {
        return;
    }
    let outs: usize = products.iter().map(|product| product.out.len()).sum();
    let alone = outs * columns < ALONE;
    let has_bf16 = products.iter().any(|p| p.weight.format == Format::Bf16);
    let packed = (has_bf16 && pool.level == Level::Amx).then(|| Packed::new(pool, x, columns));
    let given = Given {
        x,
        tokens,
        packed: packed.as_ref(),
    };
    if tokens >= OWN_TOKENS {
        return by_tokens(pool, given, products);
    }
    if tokens == 1 {
        let tasks = products.iter_mut().flat_map(|product| {
            let (weight, bias) = (product.weight, product.bias);
            by_rows(pool, given, weight, bias, &mut *product.out)
        });
        return run(pool, tasks, alone);
    }
    // Threads own rows, so the result is made row by row and turned afterwards.
    let mut turned: Vec<Vec<f32>> = products.iter().map(|p| vec![0.0; p.out.len()]).collect();
    let tasks = products.iter().zip(&mut turned).flat_map(|(product, out)| {
        let (weight, bias) = (product.weight, product.bias);
        by_rows(pool, given, weight, bias, out)
    });
    run(pool, tasks, alone);
    for (product, turned) in products.iter_mut().zip(&turned) {
        let rows = turned.len() / tokens;
        for (token, out) in product.out.chunks_exact_mut(rows).enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                *out = turned[row * tokens + token];
            }
        }
    }
}

fn run<'a>(pool: &Pool, tasks: impl Iterator<Item = Task<'a>>, alone: bool) {
    let tasks: Vec<Task<'_>> = tasks.collect();
    pool.for_each(tasks.into_iter(), alone, |task| compute(pool.level, task));
}

/// Tasks of some rows each.
fn by_rows<'a>(
    pool: &Pool,
    given: Given<'a>,
    weight: Rows<'a>,
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
) -> impl Iterator<Item = Task<'a>> {
    let Given { x, tokens, packed } = given;
    let rows = out.len() / tokens;
    // Small enough for good balance, large enough to be worth a lock.
    let whole = if packed.is_some() { amx::PAIR } else { 8 };
    let part = rows.div_ceil(pool.threads() * 8).next_multiple_of(whole);
    out.chunks_mut(part * tokens)
        .enumerate()
        .map(move |(index, out)| {
            let rows = index * part..index * part + out.len() / tokens;
            Task {
                weight: weight.slice(rows.clone()),
                bias: bias.map(|bias| &bias[rows]),
                x,
                first_token: 0,
                out,
                turned: true,
                packed,
            }
        })
}

/// Tasks of some activations each.
fn by_tokens(pool: &Pool, given: Given<'_>, products: &mut [Product<'_>]) {
    let Given { x, tokens, packed } = given;
    let part = match packed {
        // So fast that reading the weights once more would be felt.
        Some(_) => tokens
            .div_ceil(pool.threads())
            .next_multiple_of(amx::PAIR)
            .min(512),
        None => tokens
            .div_ceil(pool.threads() * 4)
            .next_multiple_of(3)
            .clamp(12, 48),
    };
    let tasks = products.iter_mut().flat_map(|product| {
        let (weight, bias) = (product.weight, product.bias);
        let rows = product.out.len() / tokens;
        let outs = product.out.chunks_mut(part * rows);
        let parts = outs.zip(x.chunks(part * weight.columns));
        parts.enumerate().map(move |(index, (out, x))| Task {
            weight,
            bias,
            x,
            first_token: index * part,
            out,
            turned: false,
            packed,
        })
    });
    run(pool, tasks, false);
}

fn compute(level: Level, task: Task<'_>) {
    match task.weight.format {
        Format::F32 => task_f32(level, task),
        Format::F16 => task_f16(level, task),
        Format::Bf16 => match task.packed {
            Some(packed) => amx::by_tiles(task, packed),
            None => task_bf16(level, task),
        },
        Format::Mxfp4 => task_mxfp4(level, task),
        Format::Int8 { .. } => task_int8(level, task),
        Format::Int4 { .. } => task_int4(level, task),
        Format::Affine4 { .. } => task_affine4(level, task),
        Format::Affine8 { .. } => task_affine8(level, task),
        Format::Float8 { .. } => task_float8(level, task),
    }
}

leveled! {
    fn task_f32(task: Task<'_>) {
        part::<V, F32>(task);
    }
}

leveled! {
    fn task_f16(task: Task<'_>) {
        part::<V, F16>(task);
    }
}

leveled! {
    fn task_bf16(task: Task<'_>) {
        part::<V, Bf16>(task);
    }
}

leveled! {
    fn task_mxfp4(task: Task<'_>) {
        whole::<V, Mxfp4>(task);
    }
}

leveled! {
    fn task_int8(task: Task<'_>) {
        part::<V, Int8>(task);
    }
}

leveled! {
    fn task_int4(task: Task<'_>) {
        part::<V, Int4>(task);
    }
}

leveled! {
    fn task_affine4(task: Task<'_>) {
        whole::<V, Affine4>(task);
    }
}

leveled! {
    fn task_affine8(task: Task<'_>) {
        whole::<V, Affine8>(task);
    }
}

leveled! {
    fn task_float8(task: Task<'_>) {
        whole::<V, Float8>(task);
    }
}

#[inline(always)]
fn part<V: Isa, E: Stream>(task: Task<'_>) {
    match (task.x.len() / task.weight.columns, V::WIDE) {
        (1, _) | (..MANY, false) => stream::<V, E, 1>(task),
        (2, true) => stream::<V, E, 2>(task),
        (..MANY_WIDE, true) => stream::<V, E, 4>(task),
        _ => many::<V, E>(task),
    }
}

/// Of formats that are not widened in registers.
#[inline(always)]
fn whole<V: Isa, E: Element>(task: Task<'_>) {
    match task.x.len() / task.weight.columns {
        ..MANY => panels::<V, E, 4, 1>(task),
        _ => many::<V, E>(task),
    }
}

#[inline(always)]
fn many<V: Isa, E: Element>(task: Task<'_>) {
    match V::WIDE {
        true => panels::<V, E, 8, 3>(task),
        false => panels::<V, E, 2, 3>(task),
    }
}

impl Task<'_> {
    #[inline(always)]
    fn set(&mut self, row: usize, token: usize, tokens: usize, sum: f32) {
        let rows = self.out.len() / tokens;
        let place = match self.turned {
            true => row * tokens + token,
            false => token * rows + row,
        };
        self.out[place] = sum + self.bias.map_or(0.0, |bias| bias[row]);
    }
}

/// Few activations: weights are widened in registers, for `T` activations at a time.
#[inline(always)]
fn stream<V: Isa, E: Stream, const T: usize>(mut task: Task<'_>) {
    let columns = task.weight.columns;
    let tokens = task.x.len() / columns;
    let rows = task.out.len() / tokens;
    let x = task.x;
    for first in (0..tokens).step_by(T) {
        // The last activation may be there more than once: what is computed twice is dropped.
        let x: [_; T] = std::array::from_fn(|index| {
            let token = (first + index).min(tokens - 1);
            &x[token * columns..][..columns]
        });
        let mut row = 0;
        while row + STREAMED_ROWS <= rows {
            let sums = streamed::<V, E, STREAMED_ROWS, T>(task.weight, row, x);
            for (index, sums) in sums.iter().enumerate() {
                for (token, sum) in sums.iter().enumerate().take(tokens - first) {
                    task.set(row + index, first + token, tokens, *sum);
                }
            }
            row += STREAMED_ROWS;
        }
        while row < rows {
            let sums = streamed::<V, E, 1, T>(task.weight, row, x);
            for (token, sum) in sums[0].iter().enumerate().take(tokens - first) {
                task.set(row, first + token, tokens, *sum);
            }
            row += 1;
        }
    }
}

/// Dot products of `R` stored rows with `T` activations.
#[inline(always)]
fn streamed<V: Isa, E: Stream, const R: usize, const T: usize>(
    weight: Rows<'_>,
    row: usize,
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    let rows: [_; R] = std::array::from_fn(|index| weight.row(row + index));
    let chunks = rows.map(E::chunks);
    let count = x[0].len() / LANES;
    let blocks = x.map(|x| x.as_chunks::<LANES>().0);
    let per_group = rows[0].group_blocks();
    let stretch = per_group.min(STRETCH);
    let ahead = R * weight.format.row_bytes(weight.columns);
    let mut sums = [[V::splat(0.0); T]; R];
    for start in (0..count).step_by(stretch) {
        let scales = rows.map(|row| E::scale::<V>(row, start / per_group));
        let end = count.min(start + stretch);
        let blocks = blocks.map(|blocks| &blocks[start..end]);
        let chunks = chunks.map(|chunks| &chunks[start / E::BLOCKS..end / E::BLOCKS]);
        for chunks in chunks {
            for line in (0..size_of_val(chunks)).step_by(LINE) {
                V::prefetch(chunks.as_ptr().cast(), ahead + line);
            }
        }
        for index in 0..chunks[0].len() {
            meet::<V, E, R, T>(
                &mut sums,
                chunks.map(|c| &c[index]),
                scales,
                blocks,
                index,
                false,
            );
            if E::BLOCKS == 2 {
                meet::<V, E, R, T>(
                    &mut sums,
                    chunks.map(|c| &c[index]),
                    scales,
                    blocks,
                    index,
                    true,
                );
            }
        }
    }
    let width = x[0].len() % LANES;
    if width > 0 {
        for row in 0..R {
            let mut weight = [0.0; LANES];
            E::widen::<V>(rows[row], count * LANES, &mut weight[..width]);
            for token in 0..T {
                let x = V::load(&padded(&x[token][count * LANES..]));
                sums[row][token] = V::multiply_add(sums[row][token], V::load(&weight), x);
            }
        }
    }
    let mut totals = [[0.0; T]; R];
    for row in 0..R {
        for token in 0..T {
            totals[row][token] = V::total(sums[row][token]);
        }
    }
    totals
}

/// Adds the products of one block of each row and each activation.
#[inline(always)]
fn meet<V: Isa, E: Stream, const R: usize, const T: usize>(
    sums: &mut [[V::V; T]; R],
    chunks: [&E::Chunk; R],
    scales: [V::V; R],
    blocks: [&[Lanes]; T],
    index: usize,
    second: bool,
) {
    let mut lanes = [V::splat(0.0); T];
    each!(TOKEN < T, {
        lanes[TOKEN] = V::load(&blocks[TOKEN][index * E::BLOCKS + usize::from(second)]);
    });
    each!(ROW < R, {
        let weight = E::lanes::<V>(chunks[ROW], second, scales[ROW]);
        each!(TOKEN < T, {
            sums[ROW][TOKEN] = V::multiply_add(sums[ROW][TOKEN], weight, lanes[TOKEN]);
        });
    });
}

/// The same sixteen columns of some rows, where a load takes one line of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Aligned<const R: usize>([Lanes; R]);

/// Many activations: each panel of `R` rows is widened once, and meets `T` activations at a time.
#[inline(always)]
fn panels<V: Isa, E: Element, const R: usize, const T: usize>(mut task: Task<'_>) {
    let columns = task.weight.columns;
    let tokens = task.x.len() / columns;
    let rows = task.out.len() / tokens;
    let mut wide = vec![Aligned([[0.0; LANES]; R]); WIDENED / LANES];
    let mut stretch = [0.0; WIDENED];
    let mut tiles = vec![[[V::splat(0.0); T]; R]; tokens.div_ceil(T)];
    for first in (0..rows).step_by(R) {
        // The last panel and tile may be cut off: what is computed beyond is dropped.
        let panel: [_; R] = std::array::from_fn(|row| task.weight.row((first + row).min(rows - 1)));
        for start in (0..columns).step_by(WIDENED) {
            let width = WIDENED.min(columns - start);
            for (index, row) in panel.iter().enumerate() {
                E::widen::<V>(*row, start, &mut stretch[..width]);
                for (wide, lanes) in wide.iter_mut().zip(stretch[..width].chunks(LANES)) {
                    wide.0[index] = match lanes.first_chunk() {
                        Some(lanes) => *lanes,
                        None => padded(lanes),
                    };
                }
            }
            for (index, sums) in tiles.iter_mut().enumerate() {
                let x: [_; T] = std::array::from_fn(|token| {
                    let token = (index * T + token).min(tokens - 1);
                    &task.x[token * columns + start..][..width]
                });
                let before = match start {
                    0 => [[V::splat(0.0); T]; R],
                    _ => *sums,
                };
                *sums = tile::<V, R, T>(&wide, x, before);
            }
        }
        for (index, sums) in tiles.iter().enumerate() {
            for (row, sums) in sums.iter().enumerate().take(rows - first) {
                for (token, sum) in sums.iter().enumerate().take(tokens - index * T) {
                    task.set(first + row, index * T + token, tokens, V::total(*sum));
                }
            }
        }
    }
}

/// Adds the products of `R` widened rows with `T` activations, in the order of [`streamed`].
#[inline(always)]
fn tile<V: Isa, const R: usize, const T: usize>(
    wide: &[Aligned<R>],
    x: [&[f32]; T],
    mut sums: [[V::V; T]; R],
) -> [[V::V; T]; R] {
    let blocks = x[0].len() / LANES;
    let rest = x.map(|x| &x[blocks * LANES..]);
    let x = x.map(|x| &x.as_chunks::<LANES>().0[..blocks]);
    for (index, weights) in wide[..blocks].iter().enumerate() {
        let mut lanes = [V::splat(0.0); T];
        each!(TOKEN < T, {
            lanes[TOKEN] = V::load(&x[TOKEN][index]);
        });
        each!(ROW < R, {
            let weight = V::load(&weights.0[ROW]);
            each!(TOKEN < T, {
                sums[ROW][TOKEN] = V::multiply_add(sums[ROW][TOKEN], weight, lanes[TOKEN]);
            });
        });
    }
    if !rest[0].is_empty() {
        for (row, sums) in sums.iter_mut().enumerate() {
            let weight = V::load(&wide[blocks].0[row]);
            for (sum, rest) in sums.iter_mut().zip(rest) {
                *sum = V::multiply_add(*sum, weight, V::load(&padded(rest)));
            }
        }
    }
    sums
}

/// Whether no weight is infinite or not a number.
pub(crate) fn all_finite(pool: &Pool, rows: Rows<'_>) -> bool {
    const PART_BYTES: usize = 1 << 20;
    let (bytes, exponent) = match rows.format {
        Format::Mxfp4 => return mxfp4::all_finite(rows.scales),
        Format::Affine4 { .. } | Format::Affine8 { .. } => {
            return affine::are_finite(rows.scales, affine::RECORD);
        }
        Format::Float8 { .. } => {
            return affine::are_finite(rows.scales, 4) && affine::are_numbers(rows.bytes);
        }
        Format::F32 => (rows.bytes, None),
        Format::F16 => (rows.bytes, Some(0x7c00)),
        Format::Bf16 => (rows.bytes, Some(0x7f80)),
        Format::Int8 { .. } | Format::Int4 { .. } => (rows.scales, Some(0x7c00)),
    };
    let finite = std::sync::atomic::AtomicBool::new(true);
    let alone = bytes.len() <= PART_BYTES;
    pool.for_each(bytes.chunks(PART_BYTES), alone, |part| {
        let good = match exponent {
            None => finite_f32(pool.level, part),
            Some(exponent) => finite_u16(pool.level, part, exponent),
        };
        if !good {
            finite.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

leveled! {
    fn finite_f32(bytes: &[u8]) -> bool {
        let mut infinite = false;
        for bytes in bytes.chunks_exact(4) {
            let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            infinite |= bits & 0x7f80_0000 == 0x7f80_0000;
        }
        !infinite
    }
}

leveled! {
    fn finite_u16(bytes: &[u8], exponent: u16) -> bool {
        let mut infinite = false;
        for bytes in bytes.chunks_exact(2) {
            infinite |= u16::from_le_bytes([bytes[0], bytes[1]]) & exponent == exponent;
        }
        !infinite
    }
}

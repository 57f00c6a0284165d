//! Weights times activations. Weights stay as they are stored and are widened on the way.

use std::ops::Range;

use super::level::leveled;
use super::{LANES, Lanes, Level, Pool, multiply_add, mxfp4, padded, sum_lanes};
use crate::safetensors::Dtype;

/// Rows of a stored matrix. Bytes of type [`Dtype::U8`] are MXFP4.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) bytes: &'a [u8],
    /// One for each [`mxfp4::BLOCK`] weights, in MXFP4 alone.
    pub(crate) scales: &'a [u8],
    pub(crate) dtype: Dtype,
    pub(crate) columns: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn slice(self, rows: Range<usize>) -> Rows<'a> {
        let row_bytes = row_bytes(self.dtype, self.columns);
        let row_scales = match self.dtype {
            Dtype::U8 => self.columns / mxfp4::BLOCK,
            _ => 0,
        };
        Rows {
            bytes: &self.bytes[rows.start * row_bytes..rows.end * row_bytes],
            scales: &self.scales[rows.start * row_scales..rows.end * row_scales],
            ..self
        }
    }
}

/// Below this many products, waking a thread takes longer than the work.
const ALONE: usize = 1 << 16;
/// Rows that share one pass over an activation.
const ROW_TILE: usize = 4;
/// Activations from which on rows are widened once for all.
const MANY: usize = 3;

/// `out[token][row] = weight[row] · x[token] + bias[row]`.
pub(crate) fn linear(
    pool: &Pool,
    weight: Rows<'_>,
    bias: Option<&[f32]>,
    x: &[f32],
    out: &mut [f32],
) {
    let tokens = x.len() / weight.columns;
    if tokens == 0 {
        return;
    }
    let rows = out.len() / tokens;
    let alone = rows * x.len() < ALONE;
    // Small enough for good balance, large enough to be worth a lock.
    let part = rows.div_ceil(pool.threads() * 8).next_multiple_of(ROW_TILE);
    // As many sums as fit into registers.
    let token_tile = if pool.level == Level::Avx512 { 4 } else { 1 };
    let task = |(index, part_out): (usize, &mut [f32])| {
        let first = index * part;
        let rows = first..first + part_out.len() / tokens;
        let weight = weight.slice(rows.clone());
        match weight.dtype {
            Dtype::F32 => part_f32(pool.level, weight, x, token_tile, part_out),
            Dtype::F16 => part_f16(pool.level, weight, x, token_tile, part_out),
            Dtype::U8 => part_mxfp4(pool.level, weight, x, token_tile, part_out),
            Dtype::Bf16 | Dtype::Other => part_bf16(pool.level, weight, x, token_tile, part_out),
        }
        if let Some(bias) = bias {
            for (sums, bias) in part_out.chunks_exact_mut(tokens).zip(&bias[rows]) {
                sums.iter_mut().for_each(|sum| *sum += bias);
            }
        }
    };
    if tokens == 1 {
        pool.for_each(out.chunks_mut(part).enumerate(), alone, task);
        return;
    }
    // Threads own rows, so the result is made row by row and turned afterwards.
    let mut turned = vec![0.0; out.len()];
    pool.for_each(turned.chunks_mut(part * tokens).enumerate(), alone, task);
    for (token, out) in out.chunks_exact_mut(rows).enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            *out = turned[row * tokens + token];
        }
    }
}

/// Widens stored elements to f32.
pub(crate) fn widen(rows: Rows<'_>, out: &mut [f32]) {
    match rows.dtype {
        Dtype::F32 => widen_as::<F32>(rows.bytes, out),
        Dtype::F16 => widen_as::<F16>(rows.bytes, out),
        Dtype::U8 => mxfp4::widen(rows.bytes, rows.scales, out),
        Dtype::Bf16 | Dtype::Other => widen_as::<Bf16>(rows.bytes, out),
    }
}

/// Whether no element is infinite or not a number.
pub(crate) fn all_finite(pool: &Pool, rows: Rows<'_>) -> bool {
    if rows.dtype == Dtype::U8 {
        return mxfp4::all_finite(rows.scales);
    }
    const PART_BYTES: usize = 1 << 20;
    let finite = std::sync::atomic::AtomicBool::new(true);
    let alone = rows.bytes.len() <= PART_BYTES;
    pool.for_each(rows.bytes.chunks(PART_BYTES), alone, |part| {
        let good = match rows.dtype {
            Dtype::F32 => finite_f32(pool.level, part),
            Dtype::F16 => finite_u16(pool.level, part, 0x7c00),
            Dtype::Bf16 | Dtype::U8 | Dtype::Other => finite_u16(pool.level, part, 0x7f80),
        };
        if !good {
            finite.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

/// How an element is stored.
trait Element {
    /// [`LANES`] of them.
    type Block: Copy;
    const BYTES: usize;
    /// All whole blocks, and the bytes after them.
    fn blocks(bytes: &[u8]) -> (&[Self::Block], &[u8]);
    fn widen(block: &Self::Block) -> Lanes;
    fn widen_one(bytes: &[u8]) -> f32;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    type Block = [u8; 4 * LANES];
    const BYTES: usize = 4;
    #[inline(always)]
    fn blocks(bytes: &[u8]) -> (&[Self::Block], &[u8]) {
        bytes.as_chunks()
    }
    #[inline(always)]
    fn widen(block: &Self::Block) -> Lanes {
        std::array::from_fn(|lane| Self::widen_one(&block[4 * lane..][..4]))
    }
    #[inline(always)]
    fn widen_one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl Element for F16 {
    type Block = [u8; 2 * LANES];
    const BYTES: usize = 2;
    #[inline(always)]
    fn blocks(bytes: &[u8]) -> (&[Self::Block], &[u8]) {
        bytes.as_chunks()
    }
    #[inline(always)]
    fn widen(block: &Self::Block) -> Lanes {
        std::array::from_fn(|lane| Self::widen_one(&block[2 * lane..][..2]))
    }
    /// Exact for every finite value, subnormal ones included; others are refused at load.
    #[inline(always)]
    fn widen_one(bytes: &[u8]) -> f32 {
        const TWO_TO_112: f32 = f32::from_bits((112 + 127) << 23);
        let half = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let magnitude = f32::from_bits((half & 0x7fff) << 13) * TWO_TO_112;
        f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16)
    }
}

impl Element for Bf16 {
    type Block = [u8; 2 * LANES];
    const BYTES: usize = 2;
    #[inline(always)]
    fn blocks(bytes: &[u8]) -> (&[Self::Block], &[u8]) {
        bytes.as_chunks()
    }
    #[inline(always)]
    fn widen(block: &Self::Block) -> Lanes {
        std::array::from_fn(|lane| Self::widen_one(&block[2 * lane..][..2]))
    }
    #[inline(always)]
    fn widen_one(bytes: &[u8]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16)
    }
}

/// Bytes of one row.
pub(crate) fn row_bytes(dtype: Dtype, columns: usize) -> usize {
    match dtype {
        Dtype::F32 => columns * F32::BYTES,
        Dtype::U8 => columns / 2,
        Dtype::F16 | Dtype::Bf16 | Dtype::Other => columns * F16::BYTES,
    }
}

#[inline(always)]
fn widen_as<E: Element>(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(E::BYTES)) {
        *out = E::widen_one(bytes);
    }
}

leveled! {
    fn part_f32(weight: Rows<'_>, x: &[f32], token_tile: usize, out: &mut [f32]) {
        part::<F32>(weight, x, token_tile, out);
    }
}

leveled! {
    fn part_f16(weight: Rows<'_>, x: &[f32], token_tile: usize, out: &mut [f32]) {
        part::<F16>(weight, x, token_tile, out);
    }
}

leveled! {
    pub(super) fn part_bf16(weight: Rows<'_>, x: &[f32], token_tile: usize, out: &mut [f32]) {
        part::<Bf16>(weight, x, token_tile, out);
    }
}

leveled! {
    /// Rows are always widened, so that one order of sums serves any number of tokens.
    fn part_mxfp4(weight: Rows<'_>, x: &[f32], token_tile: usize, out: &mut [f32]) {
        let columns = weight.columns;
        let tokens = x.len() / columns;
        let mut wide = vec![0.0; ROW_TILE * columns];
        let mut tile = vec![0.0; ROW_TILE * tokens];
        let bytes = weight.bytes.chunks(ROW_TILE * columns / 2);
        let scales = weight.scales.chunks(ROW_TILE * columns / mxfp4::BLOCK);
        for ((bytes, scales), out) in bytes.zip(scales).zip(out.chunks_mut(ROW_TILE * tokens)) {
            mxfp4::widen(bytes, scales, &mut wide);
            let whole = match token_tile {
                4 => wide_tiles::<4>(&wide, x, columns, 0, &mut tile),
                _ => 0,
            };
            wide_tiles::<1>(&wide, x, columns, whole, &mut tile);
            // The last tile may have fewer rows; what was computed for the others is dropped.
            out.copy_from_slice(&tile[..out.len()]);
        }
    }
}

/// `out[row][token]` for some rows and all tokens.
#[inline(always)]
fn part<E: Element>(weight: Rows<'_>, x: &[f32], token_tile: usize, out: &mut [f32]) {
    let columns = weight.columns;
    let tokens = x.len() / columns;
    let row_bytes = columns * E::BYTES;
    let mut wide = vec![
        0.0;
        if tokens >= MANY {
            ROW_TILE * columns
        } else {
            0
        }
    ];
    let tiles = weight
        .bytes
        .chunks(ROW_TILE * row_bytes)
        .zip(out.chunks_mut(ROW_TILE * tokens));
    for (bytes, out) in tiles {
        if bytes.len() < ROW_TILE * row_bytes {
            for (row, out) in bytes
                .chunks_exact(row_bytes)
                .zip(out.chunks_exact_mut(tokens))
            {
                for (x, out) in x.chunks_exact(columns).zip(out) {
                    *out = stored_tile::<E, 1>(row, x)[0];
                }
            }
        } else if tokens < MANY {
            for (token, x) in x.chunks_exact(columns).enumerate() {
                let sums = stored_tile::<E, ROW_TILE>(bytes, x);
                for (row, sum) in sums.into_iter().enumerate() {
                    out[row * tokens + token] = sum;
                }
            }
        } else {
            widen_as::<E>(bytes, &mut wide);
            let whole = match token_tile {
                4 => wide_tiles::<4>(&wide, x, columns, 0, out),
                _ => 0,
            };
            wide_tiles::<1>(&wide, x, columns, whole, out);
        }
    }
}

/// All whole tiles of `T` tokens from `first` on; answers the first token after them.
#[inline(always)]
fn wide_tiles<const T: usize>(
    wide: &[f32],
    x: &[f32],
    columns: usize,
    first: usize,
    out: &mut [f32],
) -> usize {
    let tokens = x.len() / columns;
    let mut token = first;
    while token + T <= tokens {
        let sums = wide_tile::<T>(wide, &x[token * columns..][..T * columns], columns);
        for (row, sums) in sums.iter().enumerate() {
            out[row * tokens + token..][..T].copy_from_slice(sums);
        }
        token += T;
    }
    token
}

/// Dot products of `R` stored rows with one activation.
#[inline(always)]
fn stored_tile<E: Element, const R: usize>(bytes: &[u8], x: &[f32]) -> [f32; R] {
    let row_bytes = x.len() * E::BYTES;
    let rows: [_; R] = std::array::from_fn(|row| E::blocks(&bytes[row * row_bytes..][..row_bytes]));
    let (blocks, rest) = x.as_chunks::<LANES>();
    let whole = rows.map(|(row, _)| &row[..blocks.len()]);
    let mut sums = [[0.0; LANES]; R];
    for (index, x) in blocks.iter().enumerate() {
        for row in 0..R {
            sums[row] = multiply_add(sums[row], &E::widen(&whole[row][index]), x);
        }
    }
    if !rest.is_empty() {
        let x = padded(rest);
        for row in 0..R {
            let mut weight = [0.0; LANES];
            widen_as::<E>(rows[row].1, &mut weight[..rest.len()]);
            sums[row] = multiply_add(sums[row], &weight, &x);
        }
    }
    sums.map(sum_lanes)
}

/// Dot products of a tile of widened rows with `T` activations, in the order of `stored_tile`.
#[inline(always)]
fn wide_tile<const T: usize>(wide: &[f32], x: &[f32], columns: usize) -> [[f32; T]; ROW_TILE] {
    let rows: [_; ROW_TILE] =
        std::array::from_fn(|row| wide[row * columns..][..columns].as_chunks::<LANES>());
    let tokens: [_; T] =
        std::array::from_fn(|token| x[token * columns..][..columns].as_chunks::<LANES>());
    let blocks = columns / LANES;
    let whole_rows = rows.map(|(row, _)| &row[..blocks]);
    let whole_tokens = tokens.map(|(token, _)| &token[..blocks]);
    let mut sums = [[[0.0; LANES]; T]; ROW_TILE];
    for index in 0..blocks {
        for row in 0..ROW_TILE {
            for token in 0..T {
                let (weight, x) = (&whole_rows[row][index], &whole_tokens[token][index]);
                sums[row][token] = multiply_add(sums[row][token], weight, x);
            }
        }
    }
    if !columns.is_multiple_of(LANES) {
        for row in 0..ROW_TILE {
            for token in 0..T {
                let (weight, x) = (padded(rows[row].1), padded(tokens[token].1));
                sums[row][token] = multiply_add(sums[row][token], &weight, &x);
            }
        }
    }
    sums.map(|sums| sums.map(sum_lanes))
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

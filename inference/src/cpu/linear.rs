//! Weights times activations. Weights stay as they are stored and are widened on the way.

use std::ops::Range;

use super::level::leveled;
use super::{LANES, Pool, sum_lanes};
use crate::safetensors::Dtype;

/// Rows of a stored matrix.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) dtype: Dtype,
    pub(crate) columns: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn slice(self, rows: Range<usize>) -> Rows<'a> {
        let row_bytes = self.columns * width(self.dtype);
        Rows {
            bytes: &self.bytes[rows.start * row_bytes..rows.end * row_bytes],
            ..self
        }
    }
}

/// Below this many products, waking a thread takes longer than the work.
const ALONE: usize = 1 << 16;
/// Rows that share one pass over an activation.
const ROW_TILE: usize = 4;
/// Activations that share one pass over a row.
const TOKEN_TILE: usize = 2;
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
    let task = |(index, part_out): (usize, &mut [f32])| {
        let first = index * part;
        let rows = first..first + part_out.len() / tokens;
        let weight = weight.slice(rows.clone());
        match weight.dtype {
            Dtype::F32 => part_f32(pool.level, weight, x, part_out),
            Dtype::F16 => part_f16(pool.level, weight, x, part_out),
            Dtype::Bf16 | Dtype::Other => part_bf16(pool.level, weight, x, part_out),
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
        Dtype::Bf16 | Dtype::Other => widen_as::<Bf16>(rows.bytes, out),
    }
}

/// Whether no element is infinite or not a number.
pub(crate) fn all_finite(pool: &Pool, rows: Rows<'_>) -> bool {
    const PART_BYTES: usize = 1 << 20;
    let finite = std::sync::atomic::AtomicBool::new(true);
    let alone = rows.bytes.len() <= PART_BYTES;
    pool.for_each(rows.bytes.chunks(PART_BYTES), alone, |part| {
        let good = match rows.dtype {
            Dtype::F32 => finite_f32(pool.level, part),
            Dtype::F16 => finite_u16(pool.level, part, 0x7c00),
            Dtype::Bf16 | Dtype::Other => finite_u16(pool.level, part, 0x7f80),
        };
        if !good {
            finite.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

/// A stored element.
trait Element {
    const WIDTH: usize;
    fn widen(bytes: &[u8]) -> f32;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    const WIDTH: usize = 4;
    #[inline(always)]
    fn widen(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl Element for F16 {
    const WIDTH: usize = 2;
    /// Exact for every finite value, subnormal ones included; others are refused at load.
    #[inline(always)]
    fn widen(bytes: &[u8]) -> f32 {
        const TWO_TO_112: f32 = f32::from_bits((112 + 127) << 23);
        let half = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let magnitude = f32::from_bits((half & 0x7fff) << 13) * TWO_TO_112;
        f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16)
    }
}

impl Element for Bf16 {
    const WIDTH: usize = 2;
    #[inline(always)]
    fn widen(bytes: &[u8]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16)
    }
}

fn width(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => F32::WIDTH,
        Dtype::F16 | Dtype::Bf16 | Dtype::Other => F16::WIDTH,
    }
}

#[inline(always)]
fn widen_as<E: Element>(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(E::WIDTH)) {
        *out = E::widen(bytes);
    }
}

leveled! {
    fn part_f32(weight: Rows<'_>, x: &[f32], out: &mut [f32]) {
        part::<F32>(weight, x, out);
    }
}

leveled! {
    fn part_f16(weight: Rows<'_>, x: &[f32], out: &mut [f32]) {
        part::<F16>(weight, x, out);
    }
}

leveled! {
    fn part_bf16(weight: Rows<'_>, x: &[f32], out: &mut [f32]) {
        part::<Bf16>(weight, x, out);
    }
}

/// `out[row][token]` for some rows and all tokens.
#[inline(always)]
fn part<E: Element>(weight: Rows<'_>, x: &[f32], out: &mut [f32]) {
    let columns = weight.columns;
    let tokens = x.len() / columns;
    let row_bytes = columns * E::WIDTH;
    let tiles = weight
        .bytes
        .chunks(ROW_TILE * row_bytes)
        .zip(out.chunks_mut(ROW_TILE * tokens));
    let mut wide = vec![
        0.0;
        if tokens >= MANY {
            ROW_TILE * columns
        } else {
            0
        }
    ];
    for (bytes, out) in tiles {
        if bytes.len() < ROW_TILE * row_bytes {
            let rows = bytes
                .chunks_exact(row_bytes)
                .zip(out.chunks_exact_mut(tokens));
            for (row, out) in rows {
                for (x, out) in x.chunks_exact(columns).zip(out) {
                    *out = stored_tile::<E, 1>(row, x, columns)[0];
                }
            }
        } else if tokens >= MANY {
            widen_as::<E>(bytes, &mut wide);
            many(&wide, x, columns, out);
        } else {
            for (token, x) in x.chunks_exact(columns).enumerate() {
                let sums = stored_tile::<E, ROW_TILE>(bytes, x, columns);
                for (row, sum) in sums.into_iter().enumerate() {
                    out[row * tokens + token] = sum;
                }
            }
        }
    }
}

/// One tile of widened rows with all tokens.
#[inline(always)]
fn many(wide: &[f32], x: &[f32], columns: usize, out: &mut [f32]) {
    let tokens = x.len() / columns;
    for (tile, x) in x.chunks(TOKEN_TILE * columns).enumerate() {
        let first = tile * TOKEN_TILE;
        if x.len() == TOKEN_TILE * columns {
            let sums = wide_tile::<TOKEN_TILE>(wide, x, columns);
            for (row, sums) in sums.iter().enumerate() {
                out[row * tokens + first..][..TOKEN_TILE].copy_from_slice(sums);
            }
        } else {
            for (offset, x) in x.chunks_exact(columns).enumerate() {
                let sums = wide_tile::<1>(wide, x, columns);
                for (row, sums) in sums.iter().enumerate() {
                    out[row * tokens + first + offset] = sums[0];
                }
            }
        }
    }
}

/// Dot products of `R` stored rows with one activation.
#[inline(always)]
fn stored_tile<E: Element, const R: usize>(bytes: &[u8], x: &[f32], columns: usize) -> [f32; R] {
    let rows: [&[u8]; R] =
        std::array::from_fn(|row| &bytes[row * columns * E::WIDTH..][..columns * E::WIDTH]);
    let mut sums = [[0.0f32; LANES]; R];
    let whole = columns / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let x: &[f32; LANES] = x[start..].first_chunk().unwrap_or(&[0.0; LANES]);
        for row in 0..R {
            let bytes = &rows[row][start * E::WIDTH..][..LANES * E::WIDTH];
            for lane in 0..LANES {
                sums[row][lane] += E::widen(&bytes[lane * E::WIDTH..][..E::WIDTH]) * x[lane];
            }
        }
    }
    for column in whole..columns {
        for row in 0..R {
            let weight = E::widen(&rows[row][column * E::WIDTH..][..E::WIDTH]);
            sums[row][column - whole] += weight * x[column];
        }
    }
    sums.map(sum_lanes)
}

/// Dot products of a tile of widened rows with `T` activations, in the same order as `stored_tile`.
#[inline(always)]
fn wide_tile<const T: usize>(wide: &[f32], x: &[f32], columns: usize) -> [[f32; T]; ROW_TILE] {
    let rows: [&[f32]; ROW_TILE] = std::array::from_fn(|row| &wide[row * columns..][..columns]);
    let tokens: [&[f32]; T] = std::array::from_fn(|token| &x[token * columns..][..columns]);
    let mut sums = [[[0.0f32; LANES]; T]; ROW_TILE];
    let whole = columns / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for row in 0..ROW_TILE {
            let weight = &rows[row][start..][..LANES];
            for token in 0..T {
                let x = &tokens[token][start..][..LANES];
                for lane in 0..LANES {
                    sums[row][token][lane] += weight[lane] * x[lane];
                }
            }
        }
    }
    for column in whole..columns {
        for row in 0..ROW_TILE {
            for token in 0..T {
                sums[row][token][column - whole] += rows[row][column] * tokens[token][column];
            }
        }
    }
    std::array::from_fn(|row| std::array::from_fn(|token| sum_lanes(sums[row][token])))
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

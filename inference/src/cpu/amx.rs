//! Products of bf16 matrices by the processor's tiles (Intel AMX), for prompts above all.
//!
//! A tile holds 16 rows of 64 bytes. One step of a product takes 16 rows × 32 columns of weights,
//! as they are stored, and 32 columns of 16 activations, and adds 16 × 16 sums. For row m of the
//! weights and activation n, with k from 0 to 15 in order:
//!
//! ```text
//! even = Σ w[m][2k] · x[n][2k],   odd = Σ w[m][2k+1] · x[n][2k+1],   sum[m][n] += even + odd
//! ```
//!
//! Activations are f32 and tiles take bf16: each activation is split into two numbers of bf16 whose
//! sum misses it by at most 2^-17 of it, and each step is done for the first, then for the second.
//! The order of a sum depends on columns alone: every batch has the same bits, which are not those
//! of the vector instructions. What a tile does is also written in Rust ([`Emulated`]): tests
//! compare with it, and at start so does [`usable`], once, before the first tile is trusted.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(unsafe_code)]
mod tiles;

use std::sync::OnceLock;

use super::Pool;
use super::linear::Task;

/// Weight rows, or activations, of a tile.
const SIDE: usize = 16;
/// Columns of one step.
const STEP: usize = 32;
/// Bytes of a tile's row.
const LINE: usize = 64;
/// Rows of weights, and activations, that one call of the kernel takes: two tiles of each.
pub(super) const PAIR: usize = 2 * SIDE;
/// Bytes of activations that are met by panel after panel of weights: they stay in the second-level
/// cache.
const NEAR_BYTES: usize = 1 << 20;
/// Activations that are packed by one task.
const PACKED_TASK: usize = 4;

/// The even and odd column's bf16 of one activation.
type Two = [u16; 2];
/// 32 columns of 16 activations: `[columns / 2][activation]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([[Two; SIDE]; SIDE]);

const EMPTY: Tile = Tile([[[0; 2]; SIDE]; SIDE]);

/// The sums of two by two tiles: `[weights][activations][row][activation]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([[[f32; SIDE]; SIDE]; 4]);

/// Activations in the form that tiles take.
pub(super) struct Packed {
    /// For each 16 activations, for each step, the first and the second numbers.
    tiles: Vec<[Tile; 2]>,
    steps: usize,
}

impl Packed {
    /// Packs activations of `columns` columns each.
    pub(super) fn new(pool: &Pool, x: &[f32], columns: usize) -> Self {
        let steps = columns.div_ceil(STEP);
        let tokens = x.len() / columns;
        // What is beyond the last activation is zero, and is dropped.
        let blocks = tokens.div_ceil(SIDE);
        let mut tiles = vec![[EMPTY; 2]; blocks * steps];
        let parts = tiles
            .chunks_mut(steps * PACKED_TASK)
            .zip(x.chunks(columns * SIDE * PACKED_TASK));
        let alone = x.len() < 1 << 14;
        pool.for_each(parts, alone, |(tiles, x)| {
            let blocks = tiles.chunks_mut(steps).zip(x.chunks(columns * SIDE));
            blocks.for_each(|(tiles, x)| pack(tiles, x, columns));
        });
        Self { tiles, steps }
    }

    /// The tiles of 16 activations, and of the next; of the same where there are none.
    fn pair(&self, first: usize) -> [&[[Tile; 2]]; 2] {
        let (pair, one) = (&self.tiles[first * self.steps..], self.steps);
        [&pair[..one], pair.get(one..2 * one).unwrap_or(&pair[..one])]
    }
}

/// Packs up to 16 activations.
fn pack(tiles: &mut [[Tile; 2]], x: &[f32], columns: usize) {
    for (token, x) in x.chunks_exact(columns).enumerate() {
        for (tiles, x) in tiles.iter_mut().zip(x.chunks(STEP)) {
            let mut columns = [0.0; STEP];
            columns[..x.len()].copy_from_slice(x);
            let first = columns.map(to_bf16);
            let second: [u16; STEP] =
                std::array::from_fn(|i| to_bf16(columns[i] - from_bf16(first[i])));
            for (tile, numbers) in tiles.iter_mut().zip([first, second]) {
                for (line, two) in tile.0.iter_mut().zip(numbers.as_chunks().0) {
                    line[token] = *two;
                }
            }
        }
    }
}

/// Rounded to nearest, ties to even. What is not a number stays none.
#[inline(always)]
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits + (0x7fff + (bits >> 16 & 1))) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

#[inline(always)]
fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Computes a task whose weights are bf16; its first activation begins a tile in `packed`.
fn part(mut task: Task<'_>, packed: &Packed, kernel: impl Kernel) {
    let columns = task.weight.columns;
    let tokens = task.x.len() / columns;
    let rows = task.out.len() / tokens;
    let row_bytes = task.weight.format.row_bytes(columns);
    let steps = packed.steps;
    let pairs = tokens.div_ceil(PAIR);
    let near = (NEAR_BYTES / (steps * size_of::<[Tile; 2]>() * 2)).max(1);
    let mut copy = Vec::new();
    let mut sums = Sums([[[0.0; SIDE]; SIDE]; 4]);
    for start in (0..pairs).step_by(near) {
        for first in (0..rows).step_by(PAIR) {
            let count = PAIR.min(rows - first);
            let stored = &task.weight.bytes[first * row_bytes..(first + count) * row_bytes];
            let whole = count == PAIR && columns.is_multiple_of(STEP);
            let (weights, stride) = match whole {
                true => (stored, row_bytes),
                false => (padded(&mut copy, stored, row_bytes, steps), steps * LINE),
            };
            for pair in start..pairs.min(start + near) {
                let x = packed.pair(task.first_token / SIDE + 2 * pair);
                kernel.multiply(weights, stride, x, &mut sums);
                for (tile, sums) in sums.0.iter().enumerate() {
                    let (row, token) = (first + tile / 2 * SIDE, (2 * pair + tile % 2) * SIDE);
                    store(&mut task, sums, (row, rows), (token, tokens));
                }
            }
        }
    }
}

/// Rows with zeros to a whole step behind each, and rows of zeros to a whole pair of tiles.
fn padded<'a>(copy: &'a mut Vec<u8>, stored: &[u8], row_bytes: usize, steps: usize) -> &'a [u8] {
    copy.clear();
    copy.resize(PAIR * steps * LINE, 0);
    for (copy, row) in copy.chunks_mut(steps * LINE).zip(stored.chunks(row_bytes)) {
        copy[..row_bytes].copy_from_slice(row);
    }
    copy
}

/// Hands over the sums of one tile, those that exist.
fn store(
    task: &mut Task<'_>,
    sums: &[[f32; SIDE]; SIDE],
    (row, rows): (usize, usize),
    (token, tokens): (usize, usize),
) {
    let rows_here = SIDE.min(rows.saturating_sub(row));
    let tokens_here = SIDE.min(tokens.saturating_sub(token));
    if rows_here == 0 || tokens_here == 0 {
        return;
    }
    if task.turned {
        for (index, sums) in sums[..rows_here].iter().enumerate() {
            let bias = task.bias.map_or(0.0, |bias| bias[row + index]);
            let out = &mut task.out[(row + index) * tokens + token..][..tokens_here];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum + bias;
            }
        }
        return;
    }
    let lines = task.out[token * rows..].chunks_mut(rows);
    for (index, line) in lines.enumerate().take(tokens_here) {
        for (lane, out) in line[row..][..rows_here].iter_mut().enumerate() {
            *out = sums[lane][index] + task.bias.map_or(0.0, |bias| bias[row + lane]);
        }
    }
}

/// What multiplies two by two tiles: the processor, or [`Emulated`].
trait Kernel {
    /// `sums = weights · x`. Of `weights` there are 32 rows, `stride` bytes apart, of as many steps
    /// as `x` has.
    fn multiply(&self, weights: &[u8], stride: usize, x: [&[[Tile; 2]]; 2], sums: &mut Sums);
}

/// What the manual says that tiles do, in Rust.
struct Emulated;

impl Kernel for Emulated {
    fn multiply(&self, weights: &[u8], stride: usize, x: [&[[Tile; 2]]; 2], sums: &mut Sums) {
        for (tile, sums) in sums.0.iter_mut().enumerate() {
            *sums = [[0.0; SIDE]; SIDE];
            for (step, x) in x[tile % 2].iter().enumerate() {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let start = (tile / 2 * SIDE + row) * stride + step * LINE;
                    let line = weights[start..][..LINE].as_chunks::<4>().0;
                    for x in x {
                        step_row(line, x, sums);
                    }
                }
            }
        }
    }
}

/// One step of one row of weights.
fn step_row(line: &[[u8; 4]], x: &Tile, sums: &mut [f32; SIDE]) {
    for (activation, sum) in sums.iter_mut().enumerate() {
        let mut halves = [0.0f32; 2];
        for (weights, x) in line.iter().zip(&x.0) {
            for (place, half) in halves.iter_mut().enumerate() {
                let weight = u16::from_le_bytes([weights[2 * place], weights[2 * place + 1]]);
                // Products of two numbers of 8 bits are exact; numbers below the normal ones are 0.
                let product = flushed(from_bf16(weight)) * flushed(from_bf16(x[activation][place]));
                *half = flushed(*half + flushed(product));
            }
        }
        *sum = flushed(*sum + flushed(halves[0] + halves[1]));
    }
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 * x } else { x }
}

/// Whether this machine has tiles, lets this process use them, and they do what is expected.
pub(super) fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        return tiles::allowed() && agrees(&tiles::Tiles::new());
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        false
    })
}

/// Computes a task by the processor's tiles.
pub(super) fn by_tiles(task: Task<'_>, packed: &Packed) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if usable() {
        return part(task, packed, tiles::Tiles::new());
    }
    part(task, packed, Emulated);
}

/// Whether a kernel computes what [`Emulated`] does, up to rounding.
fn agrees(kernel: &impl Kernel) -> bool {
    const STEPS: usize = 3;
    let mut seed = 1u32;
    let mut number = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        to_bf16((seed >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    let stride = STEPS * LINE;
    let weights: Vec<u8> = (0..PAIR * stride / 2)
        .flat_map(|_| number().to_le_bytes())
        .collect();
    let mut tile = || {
        Tile(std::array::from_fn(|_| {
            std::array::from_fn(|_| [number(), number()])
        }))
    };
    let x: [Vec<[Tile; 2]>; 2] =
        std::array::from_fn(|_| (0..STEPS).map(|_| [tile(), tile()]).collect());
    let x = [x[0].as_slice(), x[1].as_slice()];
    let [mut found, mut expected] = [Sums([[[f32::NAN; SIDE]; SIDE]; 4]); 2];
    kernel.multiply(&weights, stride, x, &mut found);
    Emulated.multiply(&weights, stride, x, &mut expected);
    let found = found.0.as_flattened().as_flattened();
    let mut pairs = found.iter().zip(expected.0.as_flattened().as_flattened());
    pairs.all(|(found, expected)| (found - expected).abs() <= 1e-4)
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Level, Product, Rows, linear};
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn two_numbers_of_bf16_miss_an_activation_by_little() {
        let special = [0.0, -0.0, 1.0, 3.4e38, -1e-30, f32::MIN_POSITIVE];
        for x in numbers(4096, 0.37).into_iter().chain(special) {
            let first = to_bf16(x);
            let rest = x - from_bf16(first);
            let missed = rest - from_bf16(to_bf16(rest));
            let infinite = from_bf16(first).is_infinite();
            assert!(infinite || missed.abs() <= x.abs() * 2f32.powi(-16), "{x}");
        }
        assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
        assert_eq!(from_bf16(to_bf16(f32::INFINITY)), f32::INFINITY);
    }

    /// Products by tiles, the processor's or emulated ones, beside sums in f64.
    #[test]
    fn products_by_tiles_agree_with_exact_sums() {
        let pool = Pool::alone(Level::Amx);
        for (rows, columns, tokens) in [
            (1, 1, 1),
            (16, 32, 1),
            (33, 40, 2),
            (32, 64, 16),
            (31, 96, 17),
            (70, 100, 47),
            (64, 64, 48),
            (40, 33, 70),
        ] {
            let weights: Vec<u16> = numbers(rows * columns, 0.71)
                .into_iter()
                .map(to_bf16)
                .collect();
            let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
            let x = numbers(tokens * columns, 0.13);
            let bias = numbers(rows, 1.7);
            for bias in [None, Some(bias.as_slice())] {
                let mut out = vec![f32::NAN; rows * tokens];
                let weight = Rows {
                    bytes: &bytes,
                    scales: &[],
                    format: Format::Bf16,
                    columns,
                };
                let out_all = &mut out;
                linear(
                    &pool,
                    &x,
                    &mut [Product {
                        weight,
                        bias,
                        out: out_all,
                    }],
                );
                for (index, found) in out.iter().enumerate() {
                    let (token, row) = (index / rows, index % rows);
                    let weights = &weights[row * columns..][..columns];
                    let pairs = weights.iter().zip(&x[token * columns..]);
                    let exact: f64 = pairs
                        .map(|(w, x)| f64::from(from_bf16(*w)) * f64::from(*x))
                        .sum();
                    let exact = exact + bias.map_or(0.0, |bias| f64::from(bias[row]));
                    let bound = 1e-5 * columns as f64;
                    assert!(
                        (f64::from(*found) - exact).abs() <= bound,
                        "{rows} {columns} {tokens}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_kernel_that_computes_something_else_is_not_trusted() {
        struct Swapped;
        impl Kernel for Swapped {
            fn multiply(
                &self,
                weights: &[u8],
                stride: usize,
                x: [&[[Tile; 2]]; 2],
                sums: &mut Sums,
            ) {
                Emulated.multiply(weights, stride, [x[1], x[0]], sums);
            }
        }
        struct Silent;
        impl Kernel for Silent {
            fn multiply(&self, _: &[u8], _: usize, _: [&[[Tile; 2]]; 2], _: &mut Sums) {}
        }
        assert!(agrees(&Emulated));
        assert!(!agrees(&Swapped));
        assert!(!agrees(&Silent));
    }
}

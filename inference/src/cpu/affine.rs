//! Weights as other programs quantise them: a weight is its whole number less its group's zero,
//! times its group's scale.
//!
//! ```text
//! Affine4: of each 16 bytes the low halves are 16 weights less 8, the high halves the next 16
//! Affine8: one signed byte each, the weight less 128
//! and for each group: | f32 LE: scale | i16 LE: zero, less 8 or 128 |
//! Float8:  one byte each (e4m3: sign, exponent of 4 bits, mantissa of 3), for each group its scale
//! ```
//!
//! A group is `1 << shift` neighbours of a row, the last one perhaps fewer. The difference is exact
//! in f32, and its product with the scale is rounded once: what PyTorch computes in float32.

use super::LANES;
use super::format::{Element, Row};
use super::vector::Isa;

/// Bytes of a group's scale and zero.
pub(crate) const RECORD: usize = 6;
/// No weight is further from zero than so many scales: e4m3 goes up to 448.
const FURTHEST: f32 = 512.0;

pub(super) struct Affine4;
pub(super) struct Affine8;
pub(super) struct Float8;

/// Groups of one row.
pub(crate) fn groups(columns: usize, shift: u8) -> usize {
    columns.div_ceil(1 << shift)
}

/// Bytes of one row of halves.
pub(crate) fn half_bytes(columns: usize) -> usize {
    columns.div_ceil(2 * LANES) * LANES
}

/// Whether every scale leaves every weight finite; each stands first in so many bytes.
pub(crate) fn are_finite(scales: &[u8], width: usize) -> bool {
    scales
        .chunks_exact(width)
        .all(|record| (scale_at(record, 0) * FURTHEST).is_finite())
}

/// Whether no byte is e4m3's "not a number"; it has no infinities.
pub(crate) fn are_numbers(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte & 0x7f != 0x7f)
}

/// Sixteen elements at a time, from `LANES * block` on.
trait Blocks {
    fn block<V: Isa>(row: Row<'_>, block: usize) -> V::V;
}

macro_rules! elements {
    ($($name:ident),*) => {
        $(impl Element for $name {
            #[inline(always)]
            fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
                for (block, out) in out.chunks_mut(LANES).enumerate() {
                    let lanes = V::store(Self::block::<V>(row, start / LANES + block));
                    out.copy_from_slice(&lanes[..out.len()]);
                }
            }
        })*
    };
}

elements!(Affine4, Affine8, Float8);

impl Blocks for Affine4 {
    #[inline(always)]
    fn block<V: Isa>(row: Row<'_>, block: usize) -> V::V {
        let bytes = sixteen(row.bytes, block / 2);
        let high = !block.is_multiple_of(2);
        let whole = V::from_i4(&bytes, high, V::scale_i4(1.0));
        moved::<V>(row, block, whole)
    }
}

impl Blocks for Affine8 {
    #[inline(always)]
    fn block<V: Isa>(row: Row<'_>, block: usize) -> V::V {
        moved::<V>(row, block, V::from_i8(&sixteen(row.bytes, block)))
    }
}

impl Blocks for Float8 {
    #[inline(always)]
    fn block<V: Isa>(row: Row<'_>, block: usize) -> V::V {
        // As a half, a number of these bits is 2^8 times smaller.
        let mut halves = [0; 2 * LANES];
        let bytes = sixteen(row.bytes, block);
        for (half, byte) in halves.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            let byte = u16::from(byte);
            *half = ((byte & 0x80) << 8 | (byte & 0x7f) << 7).to_le_bytes();
        }
        let numbers = V::mul(V::from_f16(&halves), V::splat(256.0));
        let scale = scale_at(row.scales, 4 * ((block * LANES) >> row.shift));
        V::mul(numbers, V::splat(scale))
    }
}

/// Whole numbers less their group's zero, times its scale.
#[inline(always)]
fn moved<V: Isa>(row: Row<'_>, block: usize, whole: V::V) -> V::V {
    let place = RECORD * ((block * LANES) >> row.shift);
    let zero = i16::from_le_bytes([row.scales[place + 4], row.scales[place + 5]]);
    let scale = scale_at(row.scales, place);
    V::mul(V::add(whole, V::splat(-f32::from(zero))), V::splat(scale))
}

#[inline(always)]
fn scale_at(scales: &[u8], place: usize) -> f32 {
    match scales[place..].first_chunk() {
        Some(bytes) => f32::from_le_bytes(*bytes),
        None => f32::NAN,
    }
}

/// Sixteen bytes, or what is left of a row.
#[inline(always)]
fn sixteen(bytes: &[u8], number: usize) -> [u8; LANES] {
    let rest = &bytes[number * LANES..];
    match rest.first_chunk() {
        Some(bytes) => *bytes,
        None => {
            let mut bytes = [0; LANES];
            bytes[..rest.len()].copy_from_slice(rest);
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vector::Separate;
    use super::*;

    fn row<'a>(bytes: &'a [u8], scales: &'a [u8], shift: u32) -> Row<'a> {
        Row {
            bytes,
            scales,
            shift,
        }
    }

    #[test]
    fn every_number_of_eight_bits_is_widened_exactly() {
        let scale = 0.3f32;
        for byte in (0..=255u8).filter(|byte| byte & 0x7f != 0x7f) {
            let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
            let size = match exponent {
                0 => mantissa / 8.0 * 2f64.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
            };
            let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
            let mut out = [0.0; 3];
            Float8::widen::<Separate>(row(&[byte; 3], &scale.to_le_bytes(), 31), 0, &mut out);
            assert_eq!(out, [(sign * size) as f32 * scale; 3], "{byte}");
        }
        assert!(are_numbers(&[0, 0x7e, 0xfe, 0x80]));
        assert!(!are_numbers(&[0, 0x7f]) && !are_numbers(&[0xff]));
    }

    #[test]
    fn groups_have_their_own_zero_and_the_last_may_be_short() {
        let mut scales = Vec::new();
        for (scale, zero) in [(0.5f32, -8i16), (2.0, 3)] {
            scales.extend(scale.to_le_bytes());
            scales.extend(zero.to_le_bytes());
        }
        // Columns 0 to 15 are 1, 16 to 31 are -2.
        let halves = [0xe1u8; 16];
        let mut out = [0.0; 20];
        Affine4::widen::<Separate>(row(&halves, &scales, 4), 0, &mut out);
        assert_eq!(
            (out[0], out[15], out[16], out[19]),
            (4.5, 4.5, -10.0, -10.0)
        );
        let bytes = [0xffu8; 18];
        Affine8::widen::<Separate>(row(&bytes, &scales, 4), 0, &mut out[..18]);
        assert_eq!((out[0], out[16], out[17]), (3.5, -8.0, -8.0));
        assert_eq!((half_bytes(18), groups(18, 4), groups(18, 31)), (16, 2, 1));
    }

    #[test]
    fn scales_that_overflow_are_seen() {
        let good = 1e30f32.to_le_bytes();
        assert!(are_finite(&good, 4));
        for bad in [f32::NAN, f32::INFINITY, -f32::INFINITY, 3e38] {
            assert!(!are_finite(&[good, bad.to_le_bytes()].concat(), 4));
        }
    }
}

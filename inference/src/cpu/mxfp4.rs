//! MXFP4 weights (OCP Microscaling Formats, version 1.0): blocks of 32 numbers of 4 bits that share
//! one power of two.
//!
//! ```text
//! | byte 0: number 0 low, number 1 high | byte 1: 2, 3 | … | byte 15: 30, 31 | and 2^(scale - 127)
//! ```

/// Weights that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Sign, two bits of exponent, one bit of mantissa.
const NUMBERS: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];
/// The largest scale with which the largest number is finite in f32.
const MAX_SCALE: u8 = 252;

/// Widens whole blocks; exact, as all results are finite.
#[inline(always)]
pub(super) fn widen(bytes: &[u8], scales: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<{ BLOCK / 2 }>();
    let (outs, _) = out.as_chunks_mut::<BLOCK>();
    for ((block, scale), out) in blocks.iter().zip(scales).zip(outs) {
        let scale = power_of_two(*scale);
        let (pairs, _) = out.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(block) {
            *pair = [
                NUMBERS[usize::from(byte & 15)] * scale,
                NUMBERS[usize::from(byte >> 4)] * scale,
            ];
        }
    }
}

/// Whether every scale leaves every number finite.
pub(super) fn all_finite(scales: &[u8]) -> bool {
    scales.iter().all(|scale| *scale <= MAX_SCALE)
}

#[inline(always)]
fn power_of_two(scale: u8) -> f32 {
    // 2^-127 is below the normal numbers.
    let tiny = 1 << 22;
    f32::from_bits(u32::from(scale) << 23 | if scale == 0 { tiny } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_and_scale_is_widened_exactly() {
        let bytes: Vec<u8> = (0..16).map(|low| low | (15 - low) << 4).collect();
        for scale in 0..=MAX_SCALE {
            let mut out = [0.0; BLOCK];
            widen(&bytes, &[scale], &mut out);
            for (place, found) in out.iter().enumerate() {
                let code = if place % 2 == 0 {
                    place / 2
                } else {
                    15 - place / 2
                };
                let expected = f64::from(NUMBERS[code]) * 2f64.powi(i32::from(scale) - 127);
                assert_eq!(f64::from(*found), expected, "{scale} {code}");
            }
        }
    }

    #[test]
    fn scales_that_overflow_are_seen() {
        assert!(all_finite(&[0, 127, 252]));
        assert!(!all_finite(&[253]) && !all_finite(&[1, 255]));
    }
}

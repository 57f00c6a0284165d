//! The upper half of a float.

/// A number of 8 significant bits with the exponent of an `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// Rounded to nearest, ties to even; one NaN for all, as the GPU's conversion gives.
    pub fn from_f32(x: f32) -> Self {
        if x.is_nan() {
            return Self(0x7fff);
        }
        let bits = x.to_bits();
        Self((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }

    /// Exactly what it is.
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        for (bits, expected) in [
            (0x3f80_0000, 0x3f80),
            (0x3f80_8000, 0x3f80),
            (0x3f80_8001, 0x3f81),
            (0x3f81_8000, 0x3f82),
            (0x7f7f_ffff, 0x7f80),
            (0xff80_0000, 0xff80),
            (0x7f80_0001, 0x7fff),
        ] {
            assert_eq!(Bf16::from_f32(f32::from_bits(bits)), Bf16(expected));
        }
        for bits in 0..=u16::MAX {
            let x = Bf16(bits);
            assert!(x.to_f32().is_nan() || Bf16::from_f32(x.to_f32()) == x);
        }
    }
}

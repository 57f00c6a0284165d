//! Sixteen lanes at once, by the instructions of each level.
//!
//! All of these round to nearest. `multiply_add` rounds once with AVX2 and AVX-512, and twice
//! without: the first two agree in every bit.

use super::LANES;
use super::format::from_f16;

/// Repeats a block for `$i` from 0 up to a constant of at most 8. Unlike a loop it leaves no doubt
/// that indices are constant, which is what keeps arrays in registers.
macro_rules! each {
    ($i:ident < $count:ident, $body:block) => {
        each!(@ $i, $count, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $count:ident, $body:block, $($number:literal)*) => {
        $(if $number < $count {
            const $i: usize = $number;
            $body
        })*
    };
}
pub(super) use each;

/// Sixteen lanes, somewhere in memory.
pub(super) type Lanes = [f32; LANES];

/// What code that is compiled for a level can do.
pub(crate) trait Isa {
    /// Whether there are 32 registers of 16 lanes.
    const WIDE: bool;
    /// Sixteen lanes in registers.
    type V: Copy;
    fn load(lanes: &Lanes) -> Self::V;
    fn store(v: Self::V) -> Lanes;
    fn splat(x: f32) -> Self::V;
    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    fn max(a: Self::V, b: Self::V) -> Self::V;
    fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + sum`, rounded once or twice.
    fn multiply_add(sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// The sum of the lanes, in the order of [`sum_lanes`](super::sum_lanes).
    fn total(v: Self::V) -> f32;
    /// `v` where `x` is at least `bound`, else 0.
    fn keep_above(x: Self::V, bound: f32, v: Self::V) -> Self::V;
    /// `2^power` of whole numbers from -126 to 127.
    fn two_to(power: Self::V) -> Self::V;
    /// Exact, as are the following.
    fn from_bf16(bytes: &[u8; 2 * LANES]) -> Self::V;
    fn from_f16(bytes: &[u8; 2 * LANES]) -> Self::V;
    fn from_i8(bytes: &[u8; LANES]) -> Self::V;
    /// The low halves of bytes, or the high ones, times the scale that [`scale_i4`](Self::scale_i4)
    /// made.
    fn from_i4(bytes: &[u8; LANES], high: bool, scale: Self::V) -> Self::V;
    fn scale_i4(scale: f32) -> Self::V;
    /// A number in f16.
    fn half(bits: u16) -> f32;
    /// Asks for what lies `ahead` bytes further to be brought near.
    fn prefetch(bytes: *const u8, ahead: usize);
}

/// Any processor of another kind.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) struct Separate;

#[cfg(not(target_arch = "x86_64"))]
impl Isa for Separate {
    const WIDE: bool = false;
    type V = Lanes;
    #[inline(always)]
    fn load(lanes: &Lanes) -> Lanes {
        *lanes
    }
    #[inline(always)]
    fn store(v: Lanes) -> Lanes {
        v
    }
    #[inline(always)]
    fn splat(x: f32) -> Lanes {
        [x; LANES]
    }
    #[inline(always)]
    fn add(a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }
    #[inline(always)]
    fn mul(a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    fn max(a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }
    #[inline(always)]
    fn min(a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }
    #[inline(always)]
    fn multiply_add(sum: Lanes, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| sum[lane] + a[lane] * b[lane])
    }
    #[inline(always)]
    fn total(v: Lanes) -> f32 {
        super::sum_lanes(v)
    }
    #[inline(always)]
    fn keep_above(x: Lanes, bound: f32, v: Lanes) -> Lanes {
        std::array::from_fn(|lane| if x[lane] < bound { 0.0 } else { v[lane] })
    }
    #[inline(always)]
    fn two_to(power: Lanes) -> Lanes {
        power.map(|power| f32::from_bits(((power as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn from_bf16(bytes: &[u8; 2 * LANES]) -> Lanes {
        std::array::from_fn(|lane| {
            let half = u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]);
            f32::from_bits(u32::from(half) << 16)
        })
    }
    #[inline(always)]
    fn from_f16(bytes: &[u8; 2 * LANES]) -> Lanes {
        std::array::from_fn(|lane| {
            from_f16(u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]))
        })
    }
    #[inline(always)]
    fn from_i8(bytes: &[u8; LANES]) -> Lanes {
        bytes.map(|byte| f32::from(byte as i8))
    }
    #[inline(always)]
    fn from_i4(bytes: &[u8; LANES], high: bool, scale: Lanes) -> Lanes {
        let lift = if high { 24 } else { 28 };
        Self::mul(
            bytes.map(|byte| ((i32::from(byte) << lift) >> 28) as f32),
            scale,
        )
    }
    #[inline(always)]
    fn scale_i4(scale: f32) -> Lanes {
        Self::splat(scale)
    }
    #[inline(always)]
    fn half(bits: u16) -> f32 {
        from_f16(bits)
    }
    #[inline(always)]
    fn prefetch(_: *const u8, _: usize) {}
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Separate};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Isa, LANES, Lanes, from_f16};

    // Justified: what a compiler makes of sixteen separate lanes is up to fifty times slower.
    // SAFETY, of every block: the instruction exists, as these types are named in `level.rs` alone,
    // inside of functions that run where the processor was asked for it; and a load or store goes
    // through a reference to an array of exactly the size that it reads or writes, at any address.

    /// Four lanes at once, four times: what every processor has.
    pub(crate) struct Separate;
    /// Eight lanes at once, twice.
    pub(crate) struct Avx2;
    /// Sixteen lanes at once.
    pub(crate) struct Avx512;

    macro_rules! halves {
        ($half:ident, $lanes:expr) => {
            unsafe {
                [
                    {
                        let $half = 0;
                        $lanes
                    },
                    {
                        let $half = 1;
                        $lanes
                    },
                ]
            }
        };
    }

    macro_rules! both {
        ($a:ident, $b:ident, $operation:ident) => {
            unsafe { [$operation($a[0], $b[0]), $operation($a[1], $b[1])] }
        };
    }

    macro_rules! quarters {
        ($part:ident, $lanes:expr) => {
            unsafe {
                [
                    {
                        let $part = 0;
                        $lanes
                    },
                    {
                        let $part = 1;
                        $lanes
                    },
                    {
                        let $part = 2;
                        $lanes
                    },
                    {
                        let $part = 3;
                        $lanes
                    },
                ]
            }
        };
    }

    #[inline(always)]
    fn total4(v: __m128) -> f32 {
        unsafe {
            let two = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn total8(v: __m256) -> f32 {
        unsafe {
            let upper = _mm256_extractf128_ps::<1>(v);
            total4(_mm_add_ps(_mm256_castps256_ps128(v), upper))
        }
    }

    impl Isa for Separate {
        const WIDE: bool = false;
        type V = [__m128; 4];
        #[inline(always)]
        fn load(lanes: &Lanes) -> Self::V {
            unsafe { std::mem::transmute::<Lanes, [__m128; 4]>(*lanes) }
        }
        #[inline(always)]
        fn store(v: Self::V) -> Lanes {
            unsafe { std::mem::transmute::<[__m128; 4], Lanes>(v) }
        }
        #[inline(always)]
        fn splat(x: f32) -> Self::V {
            unsafe { [_mm_set1_ps(x); 4] }
        }
        #[inline(always)]
        fn add(a: Self::V, b: Self::V) -> Self::V {
            quarters!(part, _mm_add_ps(a[part], b[part]))
        }
        #[inline(always)]
        fn mul(a: Self::V, b: Self::V) -> Self::V {
            quarters!(part, _mm_mul_ps(a[part], b[part]))
        }
        #[inline(always)]
        fn max(a: Self::V, b: Self::V) -> Self::V {
            quarters!(part, _mm_max_ps(a[part], b[part]))
        }
        #[inline(always)]
        fn min(a: Self::V, b: Self::V) -> Self::V {
            quarters!(part, _mm_min_ps(a[part], b[part]))
        }
        #[inline(always)]
        fn multiply_add(sum: Self::V, a: Self::V, b: Self::V) -> Self::V {
            quarters!(part, _mm_add_ps(sum[part], _mm_mul_ps(a[part], b[part])))
        }
        #[inline(always)]
        fn total(v: Self::V) -> f32 {
            unsafe { total4(_mm_add_ps(_mm_add_ps(v[0], v[2]), _mm_add_ps(v[1], v[3]))) }
        }
        #[inline(always)]
        fn keep_above(x: Self::V, bound: f32, v: Self::V) -> Self::V {
            quarters!(part, {
                let below = _mm_cmplt_ps(x[part], _mm_set1_ps(bound));
                _mm_andnot_ps(below, v[part])
            })
        }
        #[inline(always)]
        fn two_to(power: Self::V) -> Self::V {
            quarters!(part, {
                let whole = _mm_cvttps_epi32(power[part]);
                let biased = _mm_add_epi32(whole, _mm_set1_epi32(127));
                _mm_castsi128_ps(_mm_slli_epi32::<23>(biased))
            })
        }
        #[inline(always)]
        fn from_bf16(bytes: &[u8; 2 * LANES]) -> Self::V {
            let start = bytes.as_ptr();
            quarters!(part, {
                let four = _mm_loadl_epi64(start.add(8 * part).cast());
                _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), four))
            })
        }
        #[inline(always)]
        fn from_f16(bytes: &[u8; 2 * LANES]) -> Self::V {
            Self::load(&std::array::from_fn(|lane| {
                from_f16(u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]))
            }))
        }
        #[inline(always)]
        fn from_i8(bytes: &[u8; LANES]) -> Self::V {
            Self::load(&bytes.map(|byte| f32::from(byte as i8)))
        }
        #[inline(always)]
        fn from_i4(bytes: &[u8; LANES], high: bool, scale: Self::V) -> Self::V {
            let lift = if high { 24 } else { 28 };
            let halves = bytes.map(|byte| ((i32::from(byte) << lift) >> 28) as f32);
            Self::mul(Self::load(&halves), scale)
        }
        #[inline(always)]
        fn scale_i4(scale: f32) -> Self::V {
            Self::splat(scale)
        }
        #[inline(always)]
        fn half(bits: u16) -> f32 {
            from_f16(bits)
        }
        #[inline(always)]
        fn prefetch(bytes: *const u8, ahead: usize) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(ahead).cast()) }
        }
    }

    impl Isa for Avx2 {
        const WIDE: bool = false;
        type V = [__m256; 2];
        #[inline(always)]
        fn load(lanes: &Lanes) -> Self::V {
            unsafe { std::mem::transmute::<Lanes, [__m256; 2]>(*lanes) }
        }
        #[inline(always)]
        fn store(v: Self::V) -> Lanes {
            unsafe { std::mem::transmute::<[__m256; 2], Lanes>(v) }
        }
        #[inline(always)]
        fn splat(x: f32) -> Self::V {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn add(a: Self::V, b: Self::V) -> Self::V {
            both!(a, b, _mm256_add_ps)
        }
        #[inline(always)]
        fn mul(a: Self::V, b: Self::V) -> Self::V {
            both!(a, b, _mm256_mul_ps)
        }
        #[inline(always)]
        fn max(a: Self::V, b: Self::V) -> Self::V {
            both!(a, b, _mm256_max_ps)
        }
        #[inline(always)]
        fn min(a: Self::V, b: Self::V) -> Self::V {
            both!(a, b, _mm256_min_ps)
        }
        #[inline(always)]
        fn multiply_add(sum: Self::V, a: Self::V, b: Self::V) -> Self::V {
            unsafe {
                [
                    _mm256_fmadd_ps(a[0], b[0], sum[0]),
                    _mm256_fmadd_ps(a[1], b[1], sum[1]),
                ]
            }
        }
        #[inline(always)]
        fn total(v: Self::V) -> f32 {
            unsafe { total8(_mm256_add_ps(v[0], v[1])) }
        }
        #[inline(always)]
        fn keep_above(x: Self::V, bound: f32, v: Self::V) -> Self::V {
            halves!(half, {
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x[half], _mm256_set1_ps(bound));
                _mm256_andnot_ps(below, v[half])
            })
        }
        #[inline(always)]
        fn two_to(power: Self::V) -> Self::V {
            halves!(half, {
                let whole = _mm256_cvttps_epi32(power[half]);
                let biased = _mm256_add_epi32(whole, _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        }
        #[inline(always)]
        fn from_bf16(bytes: &[u8; 2 * LANES]) -> Self::V {
            let start = bytes.as_ptr().cast::<__m128i>();
            halves!(half, {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(start.add(half)));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            })
        }
        #[inline(always)]
        fn from_f16(bytes: &[u8; 2 * LANES]) -> Self::V {
            let start = bytes.as_ptr().cast::<__m128i>();
            halves!(half, _mm256_cvtph_ps(_mm_loadu_si128(start.add(half))))
        }
        #[inline(always)]
        fn from_i8(bytes: &[u8; LANES]) -> Self::V {
            let start = bytes.as_ptr();
            halves!(half, {
                let eight = _mm_loadl_epi64(start.add(8 * half).cast());
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))
            })
        }
        #[inline(always)]
        fn from_i4(bytes: &[u8; LANES], high: bool, scale: Self::V) -> Self::V {
            let start = bytes.as_ptr();
            halves!(half, {
                let wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(start.add(8 * half).cast()));
                let whole = match high {
                    true => _mm256_srai_epi32::<4>(wide),
                    false => _mm256_srai_epi32::<28>(_mm256_slli_epi32::<28>(wide)),
                };
                _mm256_mul_ps(_mm256_cvtepi32_ps(whole), scale[half])
            })
        }
        #[inline(always)]
        fn scale_i4(scale: f32) -> Self::V {
            Self::splat(scale)
        }
        #[inline(always)]
        fn half(bits: u16) -> f32 {
            unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
        }
        #[inline(always)]
        fn prefetch(bytes: *const u8, ahead: usize) {
            Separate::prefetch(bytes, ahead);
        }
    }

    impl Isa for Avx512 {
        const WIDE: bool = true;
        type V = __m512;
        #[inline(always)]
        fn load(lanes: &Lanes) -> __m512 {
            unsafe { std::mem::transmute::<Lanes, __m512>(*lanes) }
        }
        #[inline(always)]
        fn store(v: __m512) -> Lanes {
            unsafe { std::mem::transmute::<__m512, Lanes>(v) }
        }
        #[inline(always)]
        fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        fn multiply_add(sum: __m512, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }
        #[inline(always)]
        fn total(v: __m512) -> f32 {
            unsafe {
                let upper = _mm512_castpd_ps(_mm512_shuffle_f64x2::<0b01_00_11_10>(
                    _mm512_castps_pd(v),
                    _mm512_castps_pd(v),
                ));
                total8(_mm512_castps512_ps256(_mm512_add_ps(v, upper)))
            }
        }
        #[inline(always)]
        fn keep_above(x: __m512, bound: f32, v: __m512) -> __m512 {
            unsafe {
                let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(bound));
                _mm512_maskz_mov_ps(kept, v)
            }
        }
        #[inline(always)]
        fn two_to(power: __m512) -> __m512 {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvttps_epi32(power), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        fn from_bf16(bytes: &[u8; 2 * LANES]) -> __m512 {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        fn from_f16(bytes: &[u8; 2 * LANES]) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
        }
        #[inline(always)]
        fn from_i8(bytes: &[u8; LANES]) -> __m512 {
            unsafe {
                let wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
                _mm512_cvtepi32_ps(wide)
            }
        }
        #[inline(always)]
        fn from_i4(bytes: &[u8; LANES], high: bool, scale: __m512) -> __m512 {
            unsafe {
                // A place in the table is the low half of a number: no sign needs to be spread.
                let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
                let place = match high {
                    true => _mm512_srli_epi32::<4>(wide),
                    false => wide,
                };
                _mm512_permutexvar_ps(place, scale)
            }
        }
        /// All sixteen products.
        #[inline(always)]
        fn scale_i4(scale: f32) -> __m512 {
            const HALVES: Lanes = [
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0,
                -1.0,
            ];
            Self::mul(Self::load(&HALVES), Self::splat(scale))
        }
        #[inline(always)]
        fn half(bits: u16) -> f32 {
            Avx2::half(bits)
        }
        #[inline(always)]
        fn prefetch(bytes: *const u8, ahead: usize) {
            Separate::prefetch(bytes, ahead);
        }
    }
}

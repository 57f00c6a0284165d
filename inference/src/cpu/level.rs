//! One source, three versions: which vector instructions the compiler may use for it.

use super::amx;

/// The vector instructions of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every x86-64 machine has. Products and sums are rounded separately.
    Baseline,
    /// 8 lanes at once. Here and above, a product and a sum are rounded once, together.
    Avx2,
    /// 16 lanes at once.
    Avx512,
    /// As [`Avx512`](Self::Avx512), and tiles for products of bf16 matrices, whose bits differ.
    Amx,
}

impl Level {
    /// The levels that this machine has; the baseline is the first.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = vec![Self::Baseline];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                levels.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    levels.push(Self::Avx512);
                    if amx::usable() {
                        levels.push(Self::Amx);
                    }
                }
            }
        }
        levels
    }
}

/// Makes `fn name(level, arguments)` run its body compiled for that level. In the body `V` is the
/// level's [`Isa`](super::vector::Isa). The body is the same source each time, and Rust neither
/// reorders nor fuses floating-point operations by itself: AVX2 and AVX-512 agree in every bit.
macro_rules! leveled {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?)
        $(-> $result:ty)? $body:block
    ) => {
        $(#[$attribute])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $visibility fn $name(level: $crate::cpu::Level, $($argument: $type),*) $(-> $result)? {
            #[allow(clippy::extra_unused_type_parameters)]
            #[inline(always)]
            fn body<V: $crate::cpu::vector::Isa>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body::<$crate::cpu::vector::Avx2>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body::<$crate::cpu::vector::Avx512>($($argument),*)
            }

            match level {
                // SAFETY (both): the only obligation is that the machine has the instructions, and
                // outside of this file these variants come from `Level::available` alone, which
                // has asked the processor.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Level::Avx2 => unsafe { avx2($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Level::Avx512 | $crate::cpu::Level::Amx => unsafe {
                    avx512($($argument),*)
                },
                _ => body::<$crate::cpu::vector::Separate>($($argument),*),
            }
        }
    };
}

pub(super) use leveled;

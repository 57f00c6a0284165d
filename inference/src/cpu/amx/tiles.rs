//! The processor's tiles.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use super::{Kernel, LINE, PAIR, SIDE, Sums, Tile};

/// Leaf 7 of CPUID, EDX: AMX-BF16 and AMX-TILE.
const FEATURES: u32 = 1 << 22 | 1 << 24;
const ARCH_PRCTL: usize = 158;
const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
/// The state component of tiles' contents.
const XTILEDATA: usize = 18;

/// Asks the processor, and then the kernel, which keeps the tiles of threads apart.
pub(super) fn allowed() -> bool {
    if __cpuid_count(0, 0).eax < 7 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return false;
    }
    let answer: isize;
    // Justified: no library of this program asks for it.
    // SAFETY: `arch_prctl` with this request reads two numbers, writes no memory, and either
    // grants the use of tiles to this process or answers with an error; an unknown request is
    // one. The instruction changes rcx and r11, as is said.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer == 0
}

/// The processor's tiles, set up in this thread until dropped.
pub(super) struct Tiles(std::marker::PhantomData<*const ()>);

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// To be called where [`allowed`] has answered yes, and nowhere else.
    pub(super) fn new() -> Self {
        let mut shape = Shape {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        shape.row_bytes[..8].fill(LINE as u16);
        shape.rows[..8].fill(SIDE as u8);
        // SAFETY: the instruction exists, see above, and reads the 64 bytes of `shape`, which
        // are a valid setting: palette 1 has 8 tiles of up to 16 rows of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shape, options(nostack, readonly)) };
        Self(std::marker::PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are this thread's (the type is not `Send`), and nothing else in
        // the program uses any. What they held is gone.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

impl Kernel for Tiles {
    fn multiply(&self, weights: &[u8], stride: usize, x: [&[[Tile; 2]]; 2], sums: &mut Sums) {
        let steps = x[0].len().min(x[1].len());
        let last = (PAIR - 1) * stride + steps * LINE;
        // What is read beyond would be foreign memory: such a call does nothing.
        if steps == 0 || steps * LINE > stride || weights.len() < last {
            return;
        }
        let second = weights.as_ptr().wrapping_add(SIDE * stride);
        // SAFETY: tiles are set up as long as `self` lives. Loads read, of 16 rows `stride`
        // bytes apart from each of two pointers into `weights`, 64 bytes at each of `steps`
        // places: up to `last`, see above; and 2048 bytes of `x[0]` and `x[1]` for each step,
        // which they have. Stores write the 4096 bytes of `sums`. No register tmm is ever
        // given to other code by the compiler, and flags are not said to be kept.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{w0} + {stride}*1]",
                "tileloadd tmm5, [{w1} + {stride}*1]",
                "tileloadd tmm6, [{x0} + {line}*1]",
                "tileloadd tmm7, [{x1} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{x0} + {line}*1 + 1024]",
                "tileloadd tmm7, [{x1} + {line}*1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {w0}, 64",
                "add {w1}, 64",
                "add {x0}, 2048",
                "add {x1}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 1024], tmm1",
                "tilestored [{sums} + {line}*1 + 2048], tmm2",
                "tilestored [{sums} + {line}*1 + 3072], tmm3",
                w0 = inout(reg) weights.as_ptr() => _,
                w1 = inout(reg) second => _,
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                steps = inout(reg) steps => _,
                stride = in(reg) stride,
                line = in(reg) LINE,
                sums = in(reg) sums,
                options(nostack),
            );
        }
    }
}

//! A kernel as QEMU hands it to the firmware: with the fields of its boot header filled in that
//! loaders fill in. The firmware measures it so.
//!
//! ```text
//! 0x1f1 setup sectors u8 ‖ 0x202 "HdrS" ‖ 0x206 protocol u16 ‖ 0x210 kind of loader u8
//! 0x211 flags u8 ‖ 0x218 initrd's address u32 ‖ 0x21c its bytes u32 ‖ 0x224 end of heap u16
//! 0x228 address of the command line u32
//! 0x236 flags u16, bit 1: everything may lie above 4 GiB
//! ```
//!
//! Specification: Linux, `Documentation/arch/x86/boot.rst`; QEMU, `x86_load_linux`. Under SEV QEMU
//! fills in nothing. A QEMU that has the file `etc/boot/kernel`, such as 10.0.13, offers the kernel
//! without these changes as well, and a firmware that knows of it takes that one: then [`check`] is
//! all that is needed.

use super::boot::CommandText;
use super::tdvf::memory_below_and_above_4g;
use crate::pe::{u16_at, u32_at};

const SIGNATURE: u32 = u32::from_le_bytes(*b"HdrS");
/// The protocol of Linux 3.8, the first with the flags at 0x236.
const OLDEST: u16 = 0x020c;
/// Room below 4 GiB that QEMU keeps for ACPI tables on `q35`.
const ACPI_BYTES: u64 = 0x2_8000;

/// Why a file is not handed over as a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Too short, or no "HdrS" at 0x202.
    #[error("it has no boot header of a Linux kernel (\"HdrS\" at 0x202)")]
    NoBootHeader,
    /// Without the flags that say where the initrd may lie.
    #[error("its boot protocol is {}.{:02}; 2.12 is the oldest known here", .0 >> 8, .0 & 0xff)]
    Protocol(u16),
    /// The file ends before the part that runs.
    #[error("the file ends within its setup sectors")]
    Truncated,
    /// The initrd does not fit below the kernel's limit.
    #[error("an initrd of {0} bytes does not fit into that memory")]
    Initrd(u64),
    /// QEMU writes a video mode into the header.
    #[error("the command line has \"vga=\", which QEMU writes into the kernel: not predicted")]
    VideoMode,
}

/// Checks that a file is a kernel that EFI boots.
pub fn check(kernel: &[u8]) -> Result<(), KernelError> {
    if u32_at(kernel, 0x202) != Some(SIGNATURE) {
        return Err(KernelError::NoBootHeader);
    }
    let protocol = u16_at(kernel, 0x206).ok_or(KernelError::NoBootHeader)?;
    if protocol < OLDEST {
        return Err(KernelError::Protocol(protocol));
    }
    let sectors = kernel.get(0x1f1).copied().unwrap_or_default();
    let sectors = if sectors == 0 { 4 } else { sectors };
    // The header that is changed lies within the first two sectors.
    match kernel.len() > (usize::from(sectors) + 1) * 512 {
        true => Ok(()),
        false => Err(KernelError::Truncated),
    }
}

/// Changes a kernel as QEMU's machine `q35` does.
pub fn patch(
    kernel: &mut [u8],
    command_line: &CommandText,
    initrd_bytes: Option<u64>,
    memory_bytes: u64,
) -> Result<(), KernelError> {
    const COMMAND_LINE_ADDRESS: u32 = 0x2_0000;
    const REAL_MODE_ADDRESS: u32 = 0x1_0000;
    check(kernel)?;
    if command_line.as_str().contains("vga=") {
        return Err(KernelError::VideoMode);
    }
    let anywhere = u16_at(kernel, 0x236).is_some_and(|flags| flags & 2 != 0);
    let own_limit = u32_at(kernel, 0x22c).unwrap_or_default();
    let mut put = |at: usize, bytes: &[u8]| kernel[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x228, &COMMAND_LINE_ADDRESS.to_le_bytes());
    put(0x210, &[0xb0]);
    let heap = COMMAND_LINE_ADDRESS - REAL_MODE_ADDRESS - 0x200;
    put(0x224, &heap.to_le_bytes()[..2]);
    if let Some(bytes) = initrd_bytes {
        let address = initrd_address(bytes, anywhere, own_limit, memory_bytes);
        let address = address.ok_or(KernelError::Initrd(bytes))?;
        put(0x218, &address.to_le_bytes());
        // `initrd_address` has compared it with a number of 32 bits.
        put(0x21c, &(bytes as u32).to_le_bytes());
    }
    kernel[0x211] |= 0x80;
    Ok(())
}

fn initrd_address(bytes: u64, anywhere: bool, own_limit: u32, memory_bytes: u64) -> Option<u32> {
    let [below, _] = memory_below_and_above_4g(memory_bytes);
    let room = below.checked_sub(ACPI_BYTES)?;
    let limit = u64::from(if anywhere { u32::MAX } else { own_limit });
    let limit = if limit >= room {
        room.checked_sub(1)?
    } else {
        limit
    };
    let address = limit.checked_sub(bytes)? & !4095;
    if bytes >= limit {
        return None;
    }
    u32::try_from(address).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Vec<u8> {
        let mut kernel = vec![0; 8192];
        kernel[0x1f1] = 4;
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        kernel[0x211] = 1;
        kernel[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        kernel[0x236] = 0x3f;
        kernel
    }

    /// A program in the place of the firmware read these bytes from QEMU 10.0.13 (fw_cfg, key
    /// 0x18), for `q35` with 1, 2 and 4 GiB.
    #[test]
    fn the_header_is_filled_in_as_qemu_does() {
        let mut patched = kernel();
        let none = CommandText::default();
        assert_eq!(patch(&mut patched, &none, Some(3_145_731), 2 << 30), Ok(()));
        assert_eq!(patched[0x210..0x212], [0xb0, 0x81]);
        assert_eq!(patched[0x224..0x22c], [0, 0xfe, 0, 0, 0, 0, 2, 0]);
        let word = |at| u32_at(&patched, at);
        assert_eq!(word(0x21c), Some(3_145_731));
        assert_eq!(word(0x218), Some(0x7fcd_7000));
        let changed = (0..8192).filter(|at| patched[*at] != kernel()[*at]);
        assert!(changed.into_iter().all(|at| (0x210..0x22c).contains(&at)));
        for (memory_bytes, address) in [(1 << 30, 0x3fcd_7000), (4 << 30, 0x7fcd_7000)] {
            let mut patched = kernel();
            let done = patch(&mut patched, &none, Some(3_145_731), memory_bytes);
            assert_eq!((done, u32_at(&patched, 0x218)), (Ok(()), Some(address)));
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let none = CommandText::default();
        let refused = |change: &dyn Fn(&mut Vec<u8>), initrd| {
            let mut kernel = kernel();
            change(&mut kernel);
            patch(&mut kernel, &none, initrd, 1 << 30).err()
        };
        assert_eq!(refused(&|_| (), Some(1 << 20)), None);
        let no_header = Some(KernelError::NoBootHeader);
        assert_eq!(refused(&|kernel| kernel[0x202] = 0, None), no_header);
        assert_eq!(refused(&|kernel| kernel.truncate(0x203), None), no_header);
        assert_eq!(refused(&Vec::clear, None), no_header);
        let old = Some(KernelError::Protocol(0x200));
        assert_eq!(refused(&|kernel| kernel[0x206] = 0, None), old);
        let short = Some(KernelError::Truncated);
        assert_eq!(refused(&|kernel| kernel.truncate(2560), None), short);
        for bytes in [1 << 30, u64::MAX] {
            assert_eq!(
                refused(&|_| (), Some(bytes)),
                Some(KernelError::Initrd(bytes))
            );
        }
        let Ok(vga) = "vga=0x317 quiet".parse() else {
            unreachable!()
        };
        let refused = patch(&mut kernel(), &vga, None, 1 << 30);
        assert_eq!(refused, Err(KernelError::VideoMode));
    }
}

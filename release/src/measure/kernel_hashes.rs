//! What QEMU's `kernel-hashes=on` puts into memory before a launch: hashes of the kernel, of the
//! initrd and of the command line, which the firmware checks before it uses them.
//!
//! ```text
//! 9438d606-4f22-4cc9-b479-a793d411fd21 ‖ 168 u16, then command line, initrd, kernel, each:
//! GUID 16 ‖ 50 u16 ‖ SHA-256; then zeros up to 176 bytes
//! ```
//!
//! Specification: QEMU, `target/i386/sev.c`; EDK II, `OvmfPkg/AmdSev/BlobVerifierLibSevHashes`.

use attest::Digest;

use super::boot::CommandText;
use super::firmware::{Guid, PAGE_BYTES, guid};

const TABLE: Guid = guid(0x9438d606_4f22_4cc9_b479_a793d411fd21);
const COMMAND_LINE: Guid = guid(0x97d02dd8_bd20_4c94_aa78_e7714d36ab2a);
const INITRD: Guid = guid(0x44baf731_3a2f_4bd7_9af1_41e29169781d);
const KERNEL: Guid = guid(0x4de79437_abd2_427f_b835_d5b172d2045b);
const ENTRY_BYTES: u16 = 50;
const TABLE_BYTES: u16 = 168;
/// With padding to 16 bytes.
const PADDED_BYTES: usize = 176;

/// The three hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHashes {
    /// SHA-256 of the kernel file.
    pub kernel: Digest<32>,
    /// SHA-256 of the initrd file; of nothing where there is none.
    pub initrd: Digest<32>,
    /// SHA-256 of the command line and a NUL.
    pub command_line: Digest<32>,
}

impl KernelHashes {
    /// The hashes of a boot.
    #[must_use]
    pub fn new(kernel: Digest<32>, initrd: Option<Digest<32>>, command_line: &CommandText) -> Self {
        Self {
            kernel,
            initrd: initrd.unwrap_or_else(|| Digest::sha256(b"")),
            command_line: Digest::sha256(&command_line.with_nul()),
        }
    }

    /// The page that holds the table from `offset` on; `None` where it does not fit.
    pub(super) fn page(&self, offset: usize) -> Option<[u8; PAGE_BYTES]> {
        let mut table = Vec::with_capacity(PADDED_BYTES);
        table.extend_from_slice(&TABLE);
        table.extend_from_slice(&TABLE_BYTES.to_le_bytes());
        let entries = [
            (COMMAND_LINE, self.command_line),
            (INITRD, self.initrd),
            (KERNEL, self.kernel),
        ];
        for (name, hash) in entries {
            table.extend_from_slice(&name);
            table.extend_from_slice(&ENTRY_BYTES.to_le_bytes());
            table.extend_from_slice(hash.as_ref());
        }
        table.resize(PADDED_BYTES, 0);
        let mut page = [0; PAGE_BYTES];
        page.get_mut(offset..)?
            .get_mut(..PADDED_BYTES)?
            .copy_from_slice(&table);
        Some(page)
    }
}

//! Any bytes as a kernel: changed as QEMU changes it and hashed as firmware hashes it, or refused.

use release::measure::boot::{Artifact, CommandText};
use release::measure::tdx::{DirectBoot, KernelForm};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let boot = DirectBoot {
        kernel: &bytes,
        initrd: Some(&Artifact::of(b"initrd")),
        command_line: &CommandText::default(),
        memory_bytes: 2 << 30,
    };
    let _ = boot.events(KernelForm::Patched);
    let _ = boot.events(KernelForm::Unchanged);
});

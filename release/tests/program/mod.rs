//! `cloister-release` in a folder with a small firmware, kernel, initrd and UKI.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part"
)]

use std::fs;
use std::process::{Command, Output};

use crate::common::{self, ovmf};
use serde_json::Value;

pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("ovmf.fd", &ovmf::firmware());
        folder.write("vmlinuz", &ovmf::kernel());
        folder.write("initrd", b"an initrd");
        folder.write("cloister.efi", &common::uki());
        folder
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(name), bytes).unwrap();
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        command
            .arg("measure")
            .args(arguments)
            .current_dir(self.0.path());
        command.output().unwrap()
    }

    /// The program itself, with any of its commands.
    pub fn program(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        command.args(arguments).current_dir(self.0.path());
        command.output().unwrap()
    }

    pub fn done(&self, arguments: &str) -> Value {
        let words: Vec<_> = arguments.split_whitespace().chain(["--json"]).collect();
        let output = self.run(&words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn fails(&self, arguments: &[&str], stderr: &str) {
        let output = self.run(arguments);
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            stderr,
            "{arguments:?}"
        );
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

pub const SNP: &str = "--platform snp --vmm qemu --vcpus 2 --vcpu-type EPYC-v4 \
    --guest-features 0x1 --firmware ovmf.fd --kernel vmlinuz --initrd initrd --cmdline quiet";

//! A folder with a prediction, and evidence to explain beside it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part"
)]

use std::ops::Deref;
use std::process::Output;

use attest::Digest;
use serde_json::Value;

use crate::common::ovmf;
use crate::program::{self, SNP};

pub struct Folder(program::Folder);

impl Deref for Folder {
    type Target = program::Folder;

    fn deref(&self) -> &program::Folder {
        &self.0
    }
}

impl Folder {
    /// With a prediction of [`SNP`].
    pub fn new() -> Self {
        let folder = Self(program::Folder::new());
        let mut other = ovmf::firmware();
        other[0x2000] ^= 1;
        folder.write("old.fd", &other);
        folder.write("vmlinuz-old", b"another kernel");
        folder.predict(SNP);
        folder
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.program(arguments)
    }

    pub fn measure(&self, line: &str) -> Value {
        self.done(line)
    }

    /// What `measure` prints, as the file that evidence is compared with.
    pub fn predict(&self, line: &str) -> Value {
        let predicted = self.measure(line);
        self.write("predicted.json", predicted.to_string().as_bytes());
        predicted
    }

    /// A release that states these reference values.
    pub fn state(&self, values: &Value) {
        let statement = serde_json::json!({ "predicate": { "reference_values": values } });
        self.write("predicted.json", statement.to_string().as_bytes());
    }

    /// A report of a machine that was started so.
    pub fn report(&self, line: &str) -> Vec<u8> {
        let measured = self.measure(line);
        let digest = digest(&measured["launch_digest"]);
        let mut report = vec![0; 1184];
        report[0x90..0xc0].copy_from_slice(digest.as_ref());
        self.write("report.bin", &report);
        report
    }

    pub fn explain(&self, evidence: &str, more: &str) -> Value {
        let (code, report) = self.explain_code(evidence, more);
        assert_eq!(code, 0, "{report}");
        report
    }

    pub fn explain_code(&self, evidence: &str, more: &str) -> (i32, Value) {
        let words = ["explain-mismatch", "--json", evidence, "predicted.json"];
        let words = words.into_iter().chain(more.split_whitespace());
        let output = self.run(&words.collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.stdout.is_empty(), "{stderr}");
        let report = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), report)
    }

    /// What it says where it refuses, and that it does so as misuse.
    pub fn refused(&self, evidence: &str) -> String {
        let output = self.run(&["explain-mismatch", evidence, "predicted.json"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }
}

pub fn digest(value: &Value) -> Digest<48> {
    value.as_str().unwrap().parse().unwrap()
}

/// A quote of TDX with these registers, as far as anybody looks at it here.
pub fn quote(registers: [Digest<48>; 5]) -> Vec<u8> {
    let mut quote = vec![0; 800];
    quote[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
    for (at, value) in [136, 328, 376, 424, 472].into_iter().zip(registers) {
        quote[48 + at..48 + at + 48].copy_from_slice(value.as_ref());
    }
    quote
}

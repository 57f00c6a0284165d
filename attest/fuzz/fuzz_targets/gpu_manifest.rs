//! A manifest: its XML, signature and measurements.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::gpu_manifest(bytes));

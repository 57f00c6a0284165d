//! A measurement report of a GPU that none signed.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::gpu_report(bytes));

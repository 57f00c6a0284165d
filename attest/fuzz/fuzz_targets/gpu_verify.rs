//! Whole evidence of a machine with a GPU.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::gpu_verify(bytes));

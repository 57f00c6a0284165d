//! Evidence of GPUs as files of NVIDIA's tools hold it.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::ocsp(bytes));

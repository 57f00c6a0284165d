//! A verification as a whole, of a server in a cloud.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::cloud_verify(bytes));

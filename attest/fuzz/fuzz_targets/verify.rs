//! A whole envelope, against a policy that accepts the genuine one.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::verify_all(bytes));

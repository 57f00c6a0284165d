//! An envelope that anyone may have written.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::evidence(bytes));

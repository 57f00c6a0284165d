//! A release bundle or statement of any origin.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::bundle(bytes));

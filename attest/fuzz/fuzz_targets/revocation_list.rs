//! A revocation list that no root signed.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::revocation_list(bytes));

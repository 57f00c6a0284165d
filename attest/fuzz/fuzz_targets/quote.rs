//! A TPMS_ATTEST and a signature that no TPM made.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::quote(bytes));

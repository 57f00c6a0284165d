//! A quote of a virtual TPM that it did not sign.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::vtpm_quote(bytes));

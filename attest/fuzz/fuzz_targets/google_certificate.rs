//! A certificate of an attestation key in Google's cloud.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::google_certificate(bytes));

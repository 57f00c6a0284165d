//! A file of an auditor's, or an answer of AMD or Intel.
//! `attest/tests/files.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::file(bytes));

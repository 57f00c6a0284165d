//! A TPM's answers.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::fuzzing::tpm(bytes));

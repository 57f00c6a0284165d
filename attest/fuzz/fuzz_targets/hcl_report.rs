//! The report that Azure's paravisor keeps.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::hcl_report(bytes));

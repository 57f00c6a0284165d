//! An attestation report of SEV-SNP that no machine signed.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::snp_report(bytes));

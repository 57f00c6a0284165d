//! Any sequence of reads over any bytes.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::cbor(bytes));

//! A quote of TDX that no platform signed.
//! `attest/tests/mutations.rs` calls the same function.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::tdx_quote(bytes));

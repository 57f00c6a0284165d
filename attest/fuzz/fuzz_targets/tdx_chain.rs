//! A certificate or a revocation list beside a quote of TDX.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::tdx_collateral(bytes));

//! Files of quotes, of VMs in Azure and of devices.
//! `attest/tests/mutations.rs` calls the same function.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| signer::fuzz::vtpm_file(bytes));

//! The release partition, which anyone may have written.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::fuzzing::release_partition(bytes));

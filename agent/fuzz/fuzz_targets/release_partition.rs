//! The release partition, which anyone may have written.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::fuzzing::release_partition(bytes));

//! The body of a request, as a client may send it.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::fuzzing::request(bytes));

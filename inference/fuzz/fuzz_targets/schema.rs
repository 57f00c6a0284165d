libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    inference::fuzzing::schema(bytes);
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(channel::fuzzing::record(bytes));
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    channel::fuzzing::reply(bytes);
});

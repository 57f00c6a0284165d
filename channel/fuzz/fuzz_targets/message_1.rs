libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    channel::fuzzing::message_1(bytes);
    channel::fuzzing::payload(bytes);
});

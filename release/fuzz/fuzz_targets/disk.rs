//! Any bytes as a disk with a partition table.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = release::measure::gpt::event(std::io::Cursor::new(bytes));
});

//! Any bytes as a UKI: measured or refused.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = release::uki::kernel_version(bytes);
    let _ = release::measure::measure(bytes, &[]);
});

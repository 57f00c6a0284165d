//! Any bytes as a log file: entries in their one spelling, or a refusal.

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(lines) = release::log::parse(Path::new("log"), bytes) {
        let whole: Vec<u8> = lines
            .iter()
            .flat_map(|line| [line, &b"\n"[..]].concat())
            .collect();
        assert_eq!(whole, bytes);
    }
});

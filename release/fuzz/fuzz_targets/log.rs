//! Any bytes as a bundle of log entries, or as what a log asks of a witness, and any text as the
//! path of a log's file: each has one spelling, or is refused.

use release::log::tiles::{TilePath, encode_entries, parse_entries};
use release::log::witness::request::AddCheckpoint;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let width = usize::from(bytes.first().copied().unwrap_or_default());
    if let Some(entries) = parse_entries(bytes, width) {
        assert_eq!(encode_entries(&entries), bytes);
    }
    if let Some(request) = AddCheckpoint::parse(bytes) {
        assert_eq!(request.encode().as_bytes(), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(path) = TilePath::parse(text)
    {
        assert_eq!(path.to_string(), text);
    }
});

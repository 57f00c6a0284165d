//! Any bytes as a cpio archive: what is read is written again to the same bytes.

use release::cpio;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = cpio::parse(bytes) {
        assert_eq!(cpio::write(&entries), bytes);
    }
    let _ = cpio::last_archive(bytes, 1 << 16);
});

//! Any bytes as a PE image: read without a panic, and no section reaches beyond the file.

use release::pe::Image;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = Image::parse(bytes) {
        assert!(image.authenticode_pieces().concat().len() <= bytes.len());
        for section in image.sections() {
            assert!(section.raw.end <= bytes.len());
            let _ = image.contents(section);
        }
    }
});

//! Any bytes as a manifest or as a statement: read or refused; every path that is read is found.

use release::manifest::Manifest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        for path in manifest.files.keys() {
            assert_eq!(manifest.resolve(path).as_ref(), Some(path));
        }
    }
    let _ = release::stated::parse(bytes);
});

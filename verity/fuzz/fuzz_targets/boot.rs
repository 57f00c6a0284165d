//! A kernel command line and a list of modules. The module's own tests mutate genuine ones.

use verity::boot::{Arguments, parse_order};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(arguments) = Arguments::parse(bytes) {
        let root = arguments.root.to_string();
        assert!(bytes.windows(root.len()).any(|window| window == root.as_bytes()));
    }
    for module in parse_order(bytes).unwrap_or_default() {
        assert!(!module.name.contains('/') && module.name.ends_with(".ko.xz"));
    }
});

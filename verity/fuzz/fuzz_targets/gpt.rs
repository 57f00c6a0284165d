//! A partition table that anyone may have written. `verity/tests/gpt.rs` mutates a genuine one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use verity::gpt::Table;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(table) = Table::parse(bytes) {
        for entry in table.entries() {
            assert!(entry.first >= 34 && entry.last >= entry.first);
        }
    }
});

//! A superblock: what parses is canonical. The same holds in the module's own tests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use verity::superblock::{SUPERBLOCK_BYTES, Superblock};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(superblock) = Superblock::parse(bytes) {
        assert_eq!(superblock.encode(), bytes[..SUPERBLOCK_BYTES]);
    }
});

//! A superblock: what parses is canonical. The same holds in the module's own tests.

use verity::superblock::{SUPERBLOCK_BYTES, Superblock};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(superblock) = Superblock::parse(bytes) {
        assert_eq!(superblock.encode(), bytes[..SUPERBLOCK_BYTES]);
    }
});

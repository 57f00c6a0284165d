//! The hash tree: its shape, making it and checking it.

/// Digests of 32 bytes in one hash block.
pub const FAN_OUT: u64 = 128;

/// Number of hash blocks in the tree over `data_blocks` blocks, without the superblock. One data
/// block needs none: its digest is the root hash.
pub fn hash_blocks(data_blocks: u64) -> u64 {
    let mut level = data_blocks;
    let mut total = 0;
    while level > 1 {
        level = level.div_ceil(FAN_OUT);
        total += level;
    }
    total
}

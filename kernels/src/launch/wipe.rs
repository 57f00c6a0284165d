//! Blocks of the cache that nobody owns any more.

use super::{GRID_LIMIT, size};
use crate::{Argument, Cache, Device, Launch, LaunchError, Tensor};

/// Zeroes the blocks `ids` in all layers of `cache`.
pub fn wipe<D: Device>(
    device: &D,
    cache: &Cache<D::Memory>,
    ids: &Tensor<D::Memory, u32>,
) -> Result<(), LaunchError> {
    let shape = cache.shape;
    let eights = shape.kv_heads * shape.page_tokens() * shape.dim.size() / 8;
    let numbers = [
        size("the cache's blocks", shape.blocks, true)?,
        size("a block's elements", eights, true)?,
    ];
    size("blocks to wipe", ids.len(), true)?;
    size("layers", cache.layers, cache.layers <= GRID_LIMIT)?;
    device.launch(&Launch {
        kernel: "wipe",
        grid: [ids.len() as u32, cache.layers as u32, 2],
        threads: 256,
        shared_bytes: 0,
        arguments: vec![
            cache.keys.argument(),
            cache.values.argument(),
            ids.argument(),
            Argument::I32(numbers[0]),
            Argument::I32(numbers[1]),
        ],
    })?;
    Ok(())
}

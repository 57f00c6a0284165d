// Zeroes blocks of the cache, in all layers.
//
//   keys    bf16 [layers][blocks][block_elements], values likewise
//   ids     u32 [grid.x]; one that the cache does not have is passed over
//   eights  block_elements / 8
//
// Grid (ids, layers, 2), 256 threads.
//
// Order: none. Bound: bytes, 4 * ids * layers * block_elements.
#include "tile.cuh"

KERNEL(256, 4)
wipe(bf16 *keys, bf16 *values, const u32 *ids, int blocks, int eights) {
    u32 id = ids[block_x()];
    if (id >= (u32)blocks) return;
    bf16 *to = (block_z() ? values : keys) + ((long)block_y() * blocks + id) * eights * 8;
    Words zeros = {0, 0, 0, 0};
    for (int i = thread_x(); i < eights; i += 256) store(to + i * 8, zeros);
}
REGISTER(wipe)

// out[t] = table[ids[t]] * scale.
//
//   table bf16 [vocabulary][columns]
//   ids   u32 [tokens]; one outside the vocabulary gives NaN, which the engine reports
//   out   bf16 [tokens][columns]
//
// Grid (tokens), 128 threads; columns a multiple of 8.
//
// Order: none. Bound: bytes, 4 * tokens * columns.
#include "tile.cuh"

KERNEL(128, 4)
embed(const bf16 *table, const u32 *ids, bf16 *out, int vocabulary, int columns, float scale) {
    long token = block_x(), id = ids[token];
    for (int place = thread_x() * 8; place < columns; place += 128 * 8) {
        Words words = {0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu};
        if (id < vocabulary) {
            words = load(table + id * columns + place);
            if (scale != 1.0f) {
                Eight x = unpack(words);
#pragma unroll
                for (int i = 0; i < 8; i++) x.at[i] *= scale;
                words = packed(x);
            }
        }
        store(out + token * columns + place, words);
    }
}
REGISTER(embed)

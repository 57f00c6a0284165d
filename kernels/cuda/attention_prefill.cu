// Attention of new tokens over a paged cache that holds them already: flash, causal, grouped heads.
//
//   q       bf16 [tokens][heads][dim]
//   keys    bf16 [blocks][kv_heads][page_tokens][dim], values likewise
//   sinks   f32 [heads], or null: one more score for each head, which gives nothing
//   tiles   i32 [grid.x][2]: sequence, first row of the tile in it
//   starts  i32 [sequences + 1]: first token of each sequence in q
//   lengths i32 [sequences]: tokens in the cache, the new ones included
//   tables  i32 [sequences][table_width]
//   out     bf16 [tokens][heads][dim]
//
// Grid (tiles, heads), 128 threads. A tile is 64 rows of one sequence and head, 16 for each warp.
//
// Order: keys in tiles of 64 (32 for dim 256) that begin at multiples of that in the sequence, upward
// from the window's; a tile that a row does not see leaves it as it was, bit for bit. So a row depends
// on nothing else in the batch, nor on how its prompt was cut into chunks. Sums in f32; what is
// multiplied with the values is rounded to bf16, its sum is not.
//
// Bound: 4 * dim FLOPs for each pair of query and key that is seen and each head; bytes are those of
// q, out and, once for each tile of 64 rows, the keys and values that it sees (mostly from L2).
#include "attention.cuh"

template <int dim>
DEVICE void load_rows(bf16 *to, const Paged &from, int first, int end, int count) {
    for (int i = thread_x(); i < count * (dim / 8); i += 128) {
        int row = i / (dim / 8), column = i % (dim / 8) * 8;
        bool there = first + row < end;
        const bf16 *source = there ? from.at<dim>(first + row) + column : from.memory;
        copy_async(to + row * Row<dim>::stride + column, source, there);
    }
    commit();
}

template <int dim>
DEVICE void prefill(const bf16 *q, const bf16 *keys, const bf16 *values, const float *sinks,
                    const int *tiles, const int *starts, const int *lengths, const int *tables,
                    bf16 *out, int heads, int kv_heads, int table_width, int page_shift, int window,
                    float scale, float cap) {
    constexpr int rows = 64, columns = dim <= 128 ? 64 : 32, stride = Row<dim>::stride;
    constexpr bool keep_queries = dim <= 128;
    SHARED(memory);
    bf16 *tile_q = (bf16 *)memory, *tile_k = tile_q + rows * stride,
         *tile_v = tile_k + columns * stride;

    int lane = thread_x() % 32, warp = thread_x() / 32, head = block_y();
    int sequence = tiles[2 * block_x()], row0 = tiles[2 * block_x() + 1];
    int start = starts[sequence], count = starts[sequence + 1] - start;
    int offset = lengths[sequence] - count;
    const int *table = tables + (long)sequence * table_width;
    int kv_head = head / (heads / kv_heads);
    Paged cached_k = {keys, table, kv_heads, kv_head, page_shift};
    Paged cached_v = {values, table, kv_heads, kv_head, page_shift};
    Scores scores = {scale, cap, 1.0f / cap, window};

    for (int i = thread_x(); i < rows * (dim / 8); i += 128) {
        int row = i / (dim / 8), column = i % (dim / 8) * 8;
        bool there = row0 + row < count;
        long token = start + (there ? row0 + row : 0);
        copy_async(tile_q + row * stride + column, q + (token * heads + head) * dim + column, there);
    }
    int last = offset + (row0 + rows < count ? row0 + rows : count);
    int first = offset + row0 - window + 1;
    first = first > 0 ? first / columns * columns : 0;
    load_rows<dim>(tile_k, cached_k, first, last, columns);

    float sum[dim / 8][4] = {};
    Running running[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
    u32 queries[keep_queries ? dim / 16 : 1][4];
    int query = offset + row0 + warp * 16 + lane / 4;

    wait<0>();
    block_sync();
    if constexpr (keep_queries) {
#pragma unroll
        for (int step = 0; step < dim / 16; step++)
            load_left<dim>(queries[step], tile_q + warp * 16 * stride, step);
    }
    for (int base = first; base < last; base += columns) {
        load_rows<dim>(tile_v, cached_v, base, last, columns);
        float p[columns / 8][4] = {};
#pragma unroll
        for (int step = 0; step < dim / 16; step++) {
            if constexpr (!keep_queries) load_left<dim>(queries[0], tile_q + warp * 16 * stride, step);
#pragma unroll
            for (int pair = 0; pair < columns / 16; pair++) {
                u32 right[4];
                load_keys<dim>(right, tile_k + pair * 16 * stride, step);
                multiply(p[2 * pair], queries[keep_queries ? step : 0], right[0], right[1]);
                multiply(p[2 * pair + 1], queries[keep_queries ? step : 0], right[2], right[3]);
            }
        }
        wait<0>();
        block_sync(); // the values are there, and nobody needs these keys any more
        if (base + columns < last) load_rows<dim>(tile_k, cached_k, base + columns, last, columns);

#pragma unroll
        for (int half = 0; half < 2; half++) {
            float highest = -INFINITY;
#pragma unroll
            for (int i = 0; i < columns / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    int key = base + i * 8 + lane % 4 * 2 + j;
                    float &x = p[i][2 * half + j];
                    x = scores.of(x, query + 8 * half, key);
                    highest = fmaxf(highest, x);
                }
            }
            float zero, factor = running[half].rise(row_highest(highest), zero);
#pragma unroll
            for (int i = 0; i < columns / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float &x = p[i][2 * half + j];
                    x = fast_exp2(x - zero);
                    running[half].sum += x;
                }
            }
#pragma unroll
            for (int i = 0; i < dim / 8; i++) {
                sum[i][2 * half] *= factor;
                sum[i][2 * half + 1] *= factor;
            }
        }
#pragma unroll
        for (int pair = 0; pair < columns / 16; pair++) {
            u32 left[4];
            pack_left(left, p[2 * pair], p[2 * pair + 1]);
#pragma unroll
            for (int step = 0; step < dim / 16; step++) {
                u32 right[4];
                load_values<dim>(right, tile_v + pair * 16 * stride, step);
                multiply(sum[2 * step], left, right[0], right[1]);
                multiply(sum[2 * step + 1], left, right[2], right[3]);
            }
        }
        wait<0>();
        block_sync(); // the next keys are there, and nobody needs these values any more
    }

    // Through shared memory, each warp by its own rows, so that 16 bytes leave at once.
    bf16 *mine = tile_q + warp * 16 * stride;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float factor = 1.0f, total = row_sum(running[half].sum);
        if (sinks) {
            float sink = sinks[head] * LOG2_E, top = fmaxf(running[half].highest, sink);
            factor = fast_exp2(running[half].highest - top);
            total = total * factor + fast_exp2(sink - top);
        }
        factor = factor / total;
        u32 *row = (u32 *)(mine + (lane / 4 + 8 * half) * stride);
#pragma unroll
        for (int i = 0; i < dim / 8; i++)
            row[i * 4 + lane % 4] = pack(sum[i][2 * half] * factor, sum[i][2 * half + 1] * factor);
    }
    warp_sync();
    for (int i = lane; i < 16 * (dim / 8); i += 32) {
        int row = i / (dim / 8), column = i % (dim / 8) * 8, token = row0 + warp * 16 + row;
        if (token < count)
            store(out + ((long)(start + token) * heads + head) * dim + column,
                  load(mine + row * stride + column));
    }
}

#define PREFILL(dim)                                                                               \
    KERNEL(128, dim <= 128 ? 2 : 1)                                                                \
    attention_prefill_##dim(const bf16 *q, const bf16 *keys, const bf16 *values,                   \
                            const float *sinks, const int *tiles, const int *starts,               \
                            const int *lengths, const int *tables, bf16 *out, int heads,           \
                            int kv_heads, int table_width, int page_shift, int window,             \
                            float scale, float cap) {                                              \
        prefill<dim>(q, keys, values, sinks, tiles, starts, lengths, tables, out, heads, kv_heads, \
                     table_width, page_shift, window, scale, cap);                                 \
    }                                                                                              \
    REGISTER(attention_prefill_##dim)

PREFILL(64)
PREFILL(80)
PREFILL(96)
PREFILL(128)
PREFILL(256)

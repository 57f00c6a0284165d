// Attention of one new token of each sequence over a paged cache that holds it already.
//
//   q        bf16 [sequences][heads][dim]
//   keys     bf16 [blocks][kv_heads][page_tokens][dim], values likewise
//   sinks    f32 [heads], or null
//   lengths  i32 [sequences]: tokens in the cache, the new one included; 0 for none: zeros come out
//   tables   i32 [sequences][table_width]
//   part     f32 [sequences][heads][splits][dim]: sums of each split, not yet divided
//   highest, total  f32 [sequences][heads][splits]
//   out      bf16 [sequences][heads][dim]
//
// First kernel: grid (splits, kv_heads * ceil(group / 16), sequences), 128 threads (64 for dim 256).
// The heads that share a key head are the 16 rows of one product, so that the cache is read once.
// Second kernel: grid (heads, sequences), 128 threads.
//
// Order: a split is the 512 positions from a multiple of 512, whatever the batch. In it, warp w of W
// takes the 16 positions from 16 * (w + i * W) on, for i = 0, 1, ...; then warps are added in order,
// then splits. Sums in f32; what is multiplied with the values is rounded to bf16, its sum is not.
//
// Bound: bytes of the keys and values seen, 4 * dim for each position and key head; 4 * dim FLOPs for
// each position and head.
#include "attention.cuh"

#define SPLIT 512

template <int dim> struct Decode {
    static constexpr int warps = dim <= 128 ? 4 : 2;
    static constexpr int tokens = 16, stages = 2, stride = Row<dim>::stride;
    static constexpr int stage_elements = 2 * tokens * stride;
};

template <int dim>
DEVICE void load_tokens(bf16 *to, const Paged &k, const Paged &v, int first, int end) {
    int lane = thread_x() % 32;
    for (int i = lane; i < 16 * (dim / 8); i += 32) {
        int row = i / (dim / 8), column = i % (dim / 8) * 8, place = row * Row<dim>::stride + column;
        bool there = first + row < end;
        copy_async(to + place, there ? k.at<dim>(first + row) + column : k.memory, there);
        copy_async(to + 16 * Row<dim>::stride + place,
                   there ? v.at<dim>(first + row) + column : v.memory, there);
    }
}

template <int dim>
DEVICE void decode(const bf16 *q, const bf16 *keys, const bf16 *values, const int *lengths,
                   const int *tables, float *part, float *highest, float *total, int heads,
                   int kv_heads, int table_width, int page_shift, int window, int splits,
                   float scale, float cap) {
    using Shape = Decode<dim>;
    constexpr int warps = Shape::warps, stride = Shape::stride;
    SHARED(memory);
    int lane = thread_x() % 32, warp = thread_x() / 32;
    int split = block_x(), sequence = block_z();
    int group = heads / kv_heads, packs = (group + 15) / 16;
    int kv_head = block_y() / packs, first_head = kv_head * group + block_y() % packs * 16;
    int rows = group - block_y() % packs * 16;
    rows = rows < 16 ? rows : 16;

    int length = lengths[sequence];
    int first = split * SPLIT, end = first + SPLIT < length ? first + SPLIT : length;
    if (end <= first || end <= length - window) return; // the second kernel skips it, too

    const int *table = tables + (long)sequence * table_width;
    Paged k = {keys, table, kv_heads, kv_head, page_shift};
    Paged v = {values, table, kv_heads, kv_head, page_shift};
    Scores scores = {scale, cap, 1.0f / cap, window};
    bf16 *mine = (bf16 *)memory + warp * Shape::stages * Shape::stage_elements;

    // The queries come by way of the first stage.
    for (int i = lane; i < 16 * (dim / 8); i += 32) {
        int row = i / (dim / 8), column = i % (dim / 8) * 8;
        long head = first_head + (row < rows ? row : 0);
        copy_async(mine + row * stride + column,
                   q + ((long)sequence * heads + head) * dim + column, row < rows);
    }
    commit();
    wait<0>();
    warp_sync();
    u32 queries[dim / 16][4];
#pragma unroll
    for (int step = 0; step < dim / 16; step++) load_left<dim>(queries[step], mine, step);
    warp_sync();

    float sum[dim / 8][4] = {};
    Running running[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
    int base = first + warp * 16;
    while (base + 16 <= length - window) base += warps * 16; // what the window hides
    if (base < end) load_tokens<dim>(mine, k, v, base, end);
    commit();
    for (int turn = 0; base < end; turn++, base += warps * 16) {
        bf16 *tile_k = mine + turn % 2 * Shape::stage_elements, *tile_v = tile_k + 16 * stride;
        int next = base + warps * 16;
        if (next < end)
            load_tokens<dim>(mine + (turn + 1) % 2 * Shape::stage_elements, k, v, next, end);
        commit();
        wait<1>();
        warp_sync();

        float p[2][4] = {};
#pragma unroll
        for (int step = 0; step < dim / 16; step++) {
            u32 right[4];
            load_keys<dim>(right, tile_k, step);
            multiply(p[0], queries[step], right[0], right[1]);
            multiply(p[1], queries[step], right[2], right[3]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = -INFINITY;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float &x = p[i / 2][2 * half + i % 2];
                int key = base + i / 2 * 8 + lane % 4 * 2 + i % 2;
                x = scores.of(x, length - 1, key);
                top = fmaxf(top, x);
            }
            float zero, factor = running[half].rise(row_highest(top), zero);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float &x = p[i / 2][2 * half + i % 2];
                x = fast_exp2(x - zero);
                running[half].sum += x;
            }
#pragma unroll
            for (int i = 0; i < dim / 8; i++) {
                sum[i][2 * half] *= factor;
                sum[i][2 * half + 1] *= factor;
            }
        }
        u32 left[4];
        pack_left(left, p[0], p[1]);
#pragma unroll
        for (int step = 0; step < dim / 16; step++) {
            u32 right[4];
            load_values<dim>(right, tile_v, step);
            multiply(sum[2 * step], left, right[0], right[1]);
            multiply(sum[2 * step + 1], left, right[2], right[3]);
        }
        warp_sync(); // nobody needs this stage any more
    }

    // Warps meet in shared memory: highest [warps][16], total [warps][16], sums [warps][16][dim].
    wait<0>();
    block_sync();
    float *tops = (float *)memory, *totals = tops + warps * 16, *sums = totals + warps * 16;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = warp * 16 + lane / 4 + 8 * half;
        float all = row_sum(running[half].sum);
        if (lane % 4 == 0) {
            tops[row] = running[half].highest;
            totals[row] = all;
        }
#pragma unroll
        for (int i = 0; i < dim / 8; i++) {
            sums[row * dim + i * 8 + lane % 4 * 2] = sum[i][2 * half];
            sums[row * dim + i * 8 + lane % 4 * 2 + 1] = sum[i][2 * half + 1];
        }
    }
    block_sync();
    for (int i = thread_x(); i < rows * dim; i += warps * 32) {
        int row = i / dim, column = i % dim;
        float top = -INFINITY;
#pragma unroll
        for (int w = 0; w < warps; w++) top = fmaxf(top, tops[w * 16 + row]);
        float all = 0.0f, value = 0.0f, zero = top == -INFINITY ? 0.0f : top;
#pragma unroll
        for (int w = 0; w < warps; w++) {
            float factor = fast_exp2(tops[w * 16 + row] - zero);
            all += totals[w * 16 + row] * factor;
            value += sums[(w * 16 + row) * dim + column] * factor;
        }
        long place = ((long)sequence * heads + first_head + row) * splits + split;
        part[place * dim + column] = value;
        if (column == 0) {
            highest[place] = top;
            total[place] = all;
        }
    }
}

#define DECODE(dim)                                                                                \
    KERNEL(Decode<dim>::warps * 32, 1)                                                             \
    attention_decode_##dim(const bf16 *q, const bf16 *keys, const bf16 *values,                    \
                           const int *lengths, const int *tables, float *part, float *highest,     \
                           float *total, int heads, int kv_heads, int table_width, int page_shift, \
                           int window, int splits, float scale, float cap) {                       \
        decode<dim>(q, keys, values, lengths, tables, part, highest, total, heads, kv_heads,       \
                    table_width, page_shift, window, splits, scale, cap);                          \
    }                                                                                              \
    REGISTER(attention_decode_##dim)

DECODE(64)
DECODE(80)
DECODE(96)
DECODE(128)
DECODE(256)

KERNEL(128, 1)
attention_combine(const float *part, const float *highest, const float *total, const float *sinks,
                  const int *lengths, bf16 *out, int heads, int dim, int window, int splits) {
    int head = block_x(), sequence = block_y(), length = lengths[sequence];
    long row = (long)sequence * heads + head;
    int first = length > window ? (length - window) / SPLIT : 0, end = (length + SPLIT - 1) / SPLIT;
    float top = sinks ? sinks[head] * LOG2_E : -INFINITY;
    for (int i = first; i < end; i++) top = fmaxf(top, highest[row * splits + i]);
    float zero = top == -INFINITY ? 0.0f : top, all = 0.0f;
    for (int i = first; i < end; i++)
        all += total[row * splits + i] * fast_exp2(highest[row * splits + i] - zero);
    if (sinks) all += fast_exp2(sinks[head] * LOG2_E - zero);
    for (int pair = thread_x(); pair < dim / 2; pair += 128) {
        float a = 0.0f, b = 0.0f;
        for (int i = first; i < end; i++) {
            float factor = fast_exp2(highest[row * splits + i] - zero);
            const float *from = part + (row * splits + i) * dim + 2 * pair;
            a += from[0] * factor;
            b += from[1] * factor;
        }
        ((u32 *)(out + row * dim))[pair] = length > 0 ? pack(a / all, b / all) : 0;
    }
}
REGISTER(attention_combine)

// Prefill attention on the way to cuda/attention_prefill.cu, for heads of 128; shapes, arguments and grid
// are the same. Rungs compute the same within roundings; none is compiled into a cubin.
//
//   1  one thread for each row; scores are computed anew in each of three passes; everything comes from
//      global memory: for each pair of query and key 6 * dim FLOPs and 6 * dim bytes
//   2  one pass, by a softmax that goes along; keys and values come to shared memory once for 64 rows:
//      4 * dim FLOPs, a 64th of the bytes
//   3  as shipped: products by tensor cores, copies that overlap them, 16 rows a warp
#include "../cuda/attention.cuh"

namespace ladder {
constexpr int dim = 128, rows = 64, columns = 64;

// Where a row of the tile belongs.
struct Place {
    int query; // position in the sequence
    long token;
    bool there;
};

DEVICE Place place_of(int row, const int *tiles, const int *starts, const int *lengths) {
    int sequence = tiles[2 * block_x()], row0 = tiles[2 * block_x() + 1];
    int start = starts[sequence], count = starts[sequence + 1] - start;
    bool there = row < rows && row0 + row < count;
    return {lengths[sequence] - count + row0 + row, (long)start + row0 + row, there};
}

DEVICE float product(const bf16 *a, const bf16 *b) {
    float sum = 0.0f;
    for (int i = 0; i < dim; i++) sum += widen(a[i]) * widen(b[i]);
    return sum;
}

DEVICE void naive(const bf16 *q, const Paged &k, const Paged &v, const float *sinks, Place place,
                  Scores scores, bf16 *out) {
    int first = place.query - scores.window + 1;
    first = first > 0 ? first : 0;
    float top = sinks ? sinks[block_y()] * LOG2_E : -INFINITY;
    for (int key = first; key <= place.query; key++)
        top = fmaxf(top, scores.of(product(q, k.at<dim>(key)), place.query, key));
    float total = sinks ? fast_exp2(sinks[block_y()] * LOG2_E - top) : 0.0f;
    for (int key = first; key <= place.query; key++)
        total += fast_exp2(scores.of(product(q, k.at<dim>(key)), place.query, key) - top);
    float sum[dim] = {};
    for (int key = first; key <= place.query; key++) {
        float p = fast_exp2(scores.of(product(q, k.at<dim>(key)), place.query, key) - top);
        for (int i = 0; i < dim; i++) sum[i] += p * widen(v.at<dim>(key)[i]);
    }
    for (int i = 0; i < dim / 2; i++)
        ((u32 *)out)[i] = pack(sum[2 * i] / total, sum[2 * i + 1] / total);
}

DEVICE void tiled(const bf16 *q, const Paged &k, const Paged &v, const float *sinks, Place place,
                  int first, int last, Scores scores, bf16 *out) {
    SHARED(memory);
    bf16 *tile_k = (bf16 *)memory, *tile_v = tile_k + columns * Row<dim>::stride;
    float sum[dim] = {};
    Running running = {-INFINITY, 0.0f};
    for (int base = first; base < last; base += columns) {
        for (int i = thread_x(); i < columns * (dim / 8); i += 128) {
            int row = i / (dim / 8), column = i % (dim / 8) * 8;
            if (base + row >= last) continue;
            store(tile_k + row * Row<dim>::stride + column, load(k.at<dim>(base + row) + column));
            store(tile_v + row * Row<dim>::stride + column, load(v.at<dim>(base + row) + column));
        }
        block_sync();
        for (int i = 0; place.there && i < columns && base + i <= place.query; i++) {
            float x = scores.of(product(q, tile_k + i * Row<dim>::stride), place.query, base + i);
            float zero, factor = running.rise(x, zero), p = fast_exp2(x - zero);
            running.sum += p;
            for (int j = 0; j < dim; j++)
                sum[j] = sum[j] * factor + p * widen(tile_v[i * Row<dim>::stride + j]);
        }
        block_sync();
    }
    if (!place.there) return;
    float factor = 1.0f, total = running.sum;
    if (sinks) {
        float sink = sinks[block_y()] * LOG2_E, top = fmaxf(running.highest, sink);
        factor = fast_exp2(running.highest - top);
        total = total * factor + fast_exp2(sink - top);
    }
    for (int i = 0; i < dim / 2; i++)
        ((u32 *)out)[i] = pack(sum[2 * i] * factor / total, sum[2 * i + 1] * factor / total);
}
} // namespace ladder

#define RUNG(number)                                                                               \
    KERNEL(128, 1)                                                                                 \
    ladder_prefill_##number(const bf16 *q, const bf16 *keys, const bf16 *values,                   \
                            const float *sinks, const int *tiles, const int *starts,               \
                            const int *lengths, const int *tables, bf16 *out, int heads,           \
                            int kv_heads, int table_width, int page_shift, int window,             \
                            float scale, float cap) {                                              \
        using namespace ladder;                                                                    \
        Place place = place_of(thread_x(), tiles, starts, lengths);                                \
        int sequence = tiles[2 * block_x()], kv_head = block_y() / (heads / kv_heads);             \
        const int *table = tables + (long)sequence * table_width;                                  \
        Paged k = {keys, table, kv_heads, kv_head, page_shift};                                    \
        Paged v = {values, table, kv_heads, kv_head, page_shift};                                  \
        Scores scores = {scale, cap, 1.0f / cap, window};                                          \
        long at = (place.token * heads + block_y()) * dim;                                         \
        if (number == 1) {                                                                         \
            if (place.there) naive(q + at, k, v, sinks, place, scores, out + at);                  \
            return;                                                                                \
        }                                                                                          \
        int query0 = place.query - thread_x(), first = query0 - window + 1;                        \
        int last = query0 + rows < lengths[sequence] ? query0 + rows : lengths[sequence];          \
        first = first > 0 ? first / columns * columns : 0;                                         \
        tiled(q + at, k, v, sinks, place, first, last, scores, out + at);                          \
    }                                                                                              \
    REGISTER(ladder_prefill_##number)

RUNG(1)
RUNG(2)

// From one projection to attention: norm over each head's query and key, rotation, and the new keys and
// values into the paged cache.
//
//   in        bf16 [tokens][heads + 2 * kv_heads][dim]: queries, keys, values
//   q_weight, k_weight  bf16 [dim], or null: no norm
//   cosine, sine        f32 [positions][dim / 2]
//   positions i32 [tokens]
//   slots     i32 [tokens]: block * page_tokens + place in the block; -1: nothing is kept of the token
//   q         bf16 [tokens][heads][dim]
//   keys, values        the cache: bf16 [blocks][kv_heads][page_tokens][dim]
//
// Grid (tokens, ceil((heads + 2 * kv_heads) / 4)), 128 threads: a warp for each head of a token; dim a
// multiple of 16, at most 256. Element i turns with element i + dim / 2.
//
// Order: squares: lane l adds those of its 8 elements at 8 * l, then of the 8 at dim / 2 + 8 * l; then a
// butterfly. The norm's result is not rounded before the rotation. No contraction: the result is the
// reference's, bit for bit.
//
// Bound: bytes, 4 * tokens * (heads + 2 * kv_heads) * dim, and the tables.
#include "tile.cuh"

DEVICE void normalise(Eight &a, Eight &b, const bf16 *weight, int place, int half, bool there,
                      float epsilon, float offset) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) squares += a.at[i] * a.at[i];
#pragma unroll
    for (int i = 0; i < 8; i++) squares += b.at[i] * b.at[i];
    float factor = 1.0f / root(warp_sum(squares) / (float)(2 * half) + epsilon);
    if (!there) return;
    Eight first = unpack(load(weight + place)), second = unpack(load(weight + half + place));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        a.at[i] = a.at[i] * factor * (offset + first.at[i]);
        b.at[i] = b.at[i] * factor * (offset + second.at[i]);
    }
}

KERNEL(128, 4)
rope(const bf16 *in, const bf16 *q_weight, const bf16 *k_weight, const float *cosine,
     const float *sine, const int *positions, const int *slots, bf16 *q, bf16 *keys, bf16 *values,
     int heads, int kv_heads, int dim, int page_shift, float epsilon, float offset) {
    int lane = thread_x() % 32, head = block_y() * 4 + thread_x() / 32;
    long token = block_x();
    int all = heads + 2 * kv_heads, half = dim / 2, place = lane * 8;
    if (head >= all) return; // whole warps, and no barrier follows
    bool there = place < half;
    const bf16 *from = in + (token * all + head) * dim;
    Eight a = {}, b = {};
    if (there) {
        a = unpack(load(from + place));
        b = unpack(load(from + half + place));
    }
    bool is_value = head >= heads + kv_heads, is_query = head < heads;
    if (!is_value) {
        const bf16 *weight = is_query ? q_weight : k_weight;
        if (weight) normalise(a, b, weight, place, half, there, epsilon, offset);
        if (there) {
            long turn = (long)positions[token] * half + place;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float c = cosine[turn + i], s = sine[turn + i], x = a.at[i], y = b.at[i];
                a.at[i] = x * c - y * s;
                b.at[i] = y * c + x * s;
            }
        }
    }
    if (!there) return;
    bf16 *to;
    if (is_query) {
        to = q + (token * heads + head) * dim;
    } else if (slots[token] < 0) {
        return;
    } else {
        int kv_head = (head - heads) % kv_heads, inside = slots[token] & ((1 << page_shift) - 1);
        long block = slots[token] >> page_shift;
        to = (is_value ? values : keys) +
             (((block * kv_heads + kv_head) << page_shift) + inside) * dim;
    }
    store(to + place, packed(a));
    store(to + half + place, packed(b));
}
REGISTER(rope)

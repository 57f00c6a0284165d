// residual += delta; out = residual / rms(residual) * (offset + weight).
//
//   residual bf16 [rows][columns], changed in place if delta is not null
//   delta    bf16 [rows][columns], or null
//   weight   bf16 [columns]
//   out      bf16 [rows][columns]
//
// Grid (rows), 256 threads; columns a multiple of 8, at most 16384.
//
// Order: the sum residual + delta is rounded to bf16, and that is what is normalised. Squares: thread t
// adds those of the eights t, t + 256, ... in order; then a butterfly over each warp; then the eight
// warps in order. No contraction: the result is the reference's, bit for bit.
//
// Bound: bytes, 8 * rows * columns with delta, 4 without.
#include "tile.cuh"

KERNEL(256, 2)
rms_norm(bf16 *residual, const bf16 *delta, const bf16 *weight, bf16 *out, int columns, float epsilon,
     float offset) {
    constexpr int most = 8;
    SHARED(memory);
    float *sums = (float *)memory; // [8]
    long row = (long)block_x() * columns;
    int eights = columns / 8;
    Eight kept[most];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < most; i++) {
        int place = thread_x() + i * 256;
        if (place >= eights) continue;
        Eight x = unpack(load(residual + row + place * 8));
        if (delta) {
            Eight more = unpack(load(delta + row + place * 8));
#pragma unroll
            for (int j = 0; j < 8; j++) x.at[j] += more.at[j];
            Words rounded = packed(x);
            store(residual + row + place * 8, rounded);
            x = unpack(rounded);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) squares += x.at[j] * x.at[j];
        kept[i] = x;
    }
    squares = warp_sum(squares);
    if (thread_x() % 32 == 0) sums[thread_x() / 32] = squares;
    block_sync();
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) total += sums[i];
    float factor = 1.0f / root(total / (float)columns + epsilon);
#pragma unroll
    for (int i = 0; i < most; i++) {
        int place = thread_x() + i * 256;
        if (place >= eights) continue;
        Eight scale = unpack(load(weight + place * 8)), y;
#pragma unroll
        for (int j = 0; j < 8; j++) y.at[j] = kept[i].at[j] * factor * (offset + scale.at[j]);
        store(out + row + place * 8, packed(y));
    }
}
REGISTER(rms_norm)

// out = activation(gate) * up.
//
//   in   bf16 [rows][2 * columns]: gate, then up
//   out  bf16 [rows][columns]
//   kind 0: silu; 1: gelu by tanh
//
// Grid (ceil(rows * columns / 8 / 256)), 256 threads; columns a multiple of 8.
//
// Order: none, each element stands alone. No contraction: the result is the reference's, bit for bit.
//
// Bound: bytes, 6 * rows * columns.
#include "tile.cuh"

KERNEL(256, 4)
gate(const bf16 *in, bf16 *out, int rows, int columns, int kind) {
    long place = (long)block_x() * 256 + thread_x(), eights = columns / 8;
    if (place >= rows * eights) return;
    long row = place / eights, column = place % eights * 8;
    Eight x = unpack(load(in + row * 2 * columns + column));
    Eight up = unpack(load(in + row * 2 * columns + columns + column)), y;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float v = x.at[i];
        // (1 + tanh(z)) / 2 = 1 / (1 + e^-2z)
        float power = kind == 0 ? -v : -(1.595769f * (v + 0.044715f * v * v * v));
        y.at[i] = v / (1.0f + exact_exp(power)) * up.at[i];
    }
    store(out + row * columns + column, packed(y));
}
REGISTER(gate)

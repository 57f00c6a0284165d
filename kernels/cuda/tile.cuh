// What kernels are written in: a thin layer over the instructions that they use. nvcc compiles it to
// those instructions; a C++ compiler takes emulation/emulate.h, where each does the same by plain
// arithmetic, so that the same kernel runs on a CPU.
#pragma once

typedef unsigned short bf16; // the upper half of a float
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __CUDACC__
#include "device.cuh"
#else
#include "../emulation/emulate.h"
#endif

#define LOG2_E 1.44269504088896340736f

DEVICE float widen(u32 half) { return float_of(half << 16); }
DEVICE float low(u32 pair) { return float_of(pair << 16); }
DEVICE float high(u32 pair) { return float_of(pair & 0xffff0000u); }

// Eight bf16 of 16 bytes.
struct Eight {
    float at[8];
};

DEVICE Eight unpack(Words words) {
    Eight out;
    u32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out.at[2 * i] = low(word[i]);
        out.at[2 * i + 1] = high(word[i]);
    }
    return out;
}

DEVICE Words packed(const Eight &in) {
    Words out;
    out.x = pack(in.at[0], in.at[1]);
    out.y = pack(in.at[2], in.at[3]);
    out.z = pack(in.at[4], in.at[5]);
    out.w = pack(in.at[6], in.at[7]);
    return out;
}

// The sum over a warp, the same bits in every lane: the order is that of a butterfly.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

// e^x by IEEE operations only, the same bits as `reference::exp` in Rust. In a file that is compiled
// without contraction.
DEVICE float exact_exp(float x) {
    float clamped = x < -87.3f ? -87.3f : (x > 88.3f ? 88.3f : x);
    float power = (clamped * LOG2_E + 12582912.0f) - 12582912.0f;
    float rest = (clamped - power * 0.6933594f) - power * -2.121944393e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 0.5f;
    sum = sum * rest * rest + rest + 1.0f;
    float scale = float_of((u32)((int)power + 127) << 23);
    return x < -87.3f ? 0.0f : sum * scale;
}

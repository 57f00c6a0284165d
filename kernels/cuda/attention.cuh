// What prefill and decode share: a paged cache, one score's mask and cap.
//
// Cache: bf16 [blocks][kv_heads][page_tokens][head_dim], keys and values each; page_tokens is a power
// of two. A table row names the blocks of one sequence in order.
#pragma once
#include "tile.cuh"

struct Paged {
    const bf16 *memory;
    const int *table;
    int kv_heads, kv_head, page_shift;

    // The head's vector of the token at `position` of the sequence.
    template <int dim> DEVICE_MEMBER const bf16 *at(int position) const {
        long block = table[position >> page_shift];
        int inside = position & ((1 << page_shift) - 1);
        return memory + (((block * kv_heads + kv_head) << page_shift) + inside) * dim;
    }
};

// A score in units of log2, or minus infinity for what may not be seen.
struct Scores {
    float scale, cap, inverse; // 1 / cap
    int window;

    DEVICE_MEMBER float of(float dot, int query, int key) const {
        float x = dot * scale;
        if (cap > 0.0f) {
            // cap * tanh(x / cap), by a power that never overflows.
            float small = fast_exp2(-2.0f * LOG2_E * fabsf(x * inverse));
            x = copysignf(cap * fast_quotient(1.0f - small, 1.0f + small), x);
        }
        bool seen = key <= query && query - key < window;
        return seen ? x * LOG2_E : -INFINITY;
    }
};

// One row's softmax on its way: the highest score and the sum of powers below it.
struct Running {
    float highest, sum;

    // Takes a new highest score in; answers what earlier sums are to be multiplied by. `base` is
    // what to subtract: 0 while nothing has been seen, so that nothing becomes a NaN.
    DEVICE_MEMBER float rise(float score, float &base) {
        float before = highest;
        highest = fmaxf(highest, score);
        base = highest == -INFINITY ? 0.0f : highest;
        float factor = fast_exp2(before - base);
        sum *= factor;
        return factor;
    }
};

// Rows of 16 bytes more than they need: eight rows at one column lie in different banks.
template <int dim> struct Row {
    static constexpr int stride = dim + 8;
};

// The A operand of 16 rows from `row`, columns [16 * step, 16 * step + 16).
template <int dim> DEVICE void load_left(u32 (&out)[4], const bf16 *row, int step) {
    int lane = thread_x() % 32;
    load_matrices(out, row + lane % 16 * Row<dim>::stride + step * 16 + lane / 16 * 8);
}

// The B operands of q · k for 16 keys from `row`: out[0..1] for the first eight, out[2..3] after.
template <int dim> DEVICE void load_keys(u32 (&out)[4], const bf16 *row, int step) {
    int lane = thread_x() % 32;
    int key = lane / 16 * 8 + lane % 8;
    load_matrices(out, row + key * Row<dim>::stride + step * 16 + lane / 8 % 2 * 8);
}

// The B operands of p · v for 16 values from `row`, columns [16 * step, 16 * step + 16).
template <int dim> DEVICE void load_values(u32 (&out)[4], const bf16 *row, int step) {
    int lane = thread_x() % 32;
    load_matrices_turned(out, row + lane % 16 * Row<dim>::stride + step * 16 + lane / 16 * 8);
}

// The A operand of p · v: 16 columns of probabilities, as the products left them.
DEVICE void pack_left(u32 (&out)[4], const float (&first)[4], const float (&second)[4]) {
    out[0] = pack(first[0], first[1]);
    out[1] = pack(first[2], first[3]);
    out[2] = pack(second[0], second[1]);
    out[3] = pack(second[2], second[3]);
}

// The highest and the sum over the four lanes that share a row.
DEVICE float row_highest(float x) {
    x = fmaxf(x, shuffle_xor(x, 1));
    return fmaxf(x, shuffle_xor(x, 2));
}
DEVICE float row_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

// out[m][n] = sum over k of left[m][k] * right[n][k], plus bias[n].
//
//   left   bf16 [m][k]: activations
//   right  bf16 [n][k]: weights, as checkpoints hold them
//   bias   bf16 [n], or null
//   out    bf16 or f32 [m][n]
//
// k is a multiple of 16, n of 2; both of 8 so that rows are 16-byte aligned.
//
// Order: one f32 sum for each element, over k upward in steps of 16, one tensor-core instruction each,
// whatever the tile's shape; k is never split. So an element has the same bits in a batch of 1 and of
// 4096. Then the bias, then one rounding.
//
// Bound: 2 * m * n * k FLOPs; bytes 2 * (m * k + n * k + m * n).
#include "tile.cuh"

template <int tile_m, int tile_n, int tile_k, int warps_m, int warps_n, int stages> struct Gemm {
    static constexpr int threads = warps_m * warps_n * 32, stride = tile_k + 8;
    static constexpr int warp_m = tile_m / warps_m, warp_n = tile_n / warps_n;
    static constexpr int stage_elements = (tile_m + tile_n) * stride;
    static_assert(warp_m % 16 == 0 && warp_n % 16 == 0 && tile_k % 16 == 0, "tiles of 16");

    DEVICE_STATIC void load_tile(bf16 *to, const bf16 *from, int row0, int rows, int count, int k0,
                                 int k) {
        for (int i = thread_x(); i < count * (tile_k / 8); i += threads) {
            int row = i / (tile_k / 8), column = i % (tile_k / 8) * 8;
            bool there = row0 + row < rows && k0 + column < k;
            const bf16 *source = there ? from + (long)(row0 + row) * k + k0 + column : from;
            copy_async(to + row * stride + column, source, there);
        }
    }

    template <bool wide>
    DEVICE_STATIC void run(const bf16 *left, const bf16 *right, const bf16 *bias, void *out, int m,
                           int n, int k) {
        SHARED(memory);
        int lane = thread_x() % 32, warp = thread_x() / 32;
        int row0 = block_y() * tile_m, column0 = block_x() * tile_n;
        int warp_row = warp / warps_n * warp_m, warp_column = warp % warps_n * warp_n;
        bf16 *tiles = (bf16 *)memory;
        auto load_stage = [&](int index) {
            bf16 *to = tiles + index % stages * stage_elements;
            load_tile(to, left, row0, m, tile_m, index * tile_k, k);
            load_tile(to + tile_m * stride, right, column0, n, tile_n, index * tile_k, k);
        };
        float sum[warp_m / 16][warp_n / 8][4] = {};
        int turns = (k + tile_k - 1) / tile_k;
        for (int i = 0; i < stages - 1; i++) {
            if (i < turns) load_stage(i);
            commit();
        }
        for (int turn = 0; turn < turns; turn++) {
            wait<stages - 2>();
            block_sync(); // this stage is there, and nobody needs the one before it any more
            if (turn + stages - 1 < turns) load_stage(turn + stages - 1);
            commit();
            bf16 *a = tiles + turn % stages * stage_elements + warp_row * stride;
            bf16 *b = tiles + turn % stages * stage_elements + (tile_m + warp_column) * stride;
#pragma unroll
            for (int step = 0; step < tile_k; step += 16) {
                if (turn * tile_k + step >= k) break;
                u32 rows[warp_m / 16][4];
#pragma unroll
                for (int i = 0; i < warp_m / 16; i++)
                    load_matrices(rows[i],
                                  a + (i * 16 + lane % 16) * stride + step + lane / 16 * 8);
#pragma unroll
                for (int j = 0; j < warp_n / 16; j++) {
                    u32 columns[4];
                    int column = j * 16 + lane / 16 * 8 + lane % 8;
                    load_matrices(columns, b + column * stride + step + lane / 8 % 2 * 8);
#pragma unroll
                    for (int i = 0; i < warp_m / 16; i++) {
                        multiply(sum[i][2 * j], rows[i], columns[0], columns[1]);
                        multiply(sum[i][2 * j + 1], rows[i], columns[2], columns[3]);
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < warp_m / 16; i++) {
#pragma unroll
            for (int j = 0; j < warp_n / 8; j++) {
                int column = column0 + warp_column + j * 8 + lane % 4 * 2;
                if (column >= n) continue;
                u32 pair = bias ? *(const u32 *)(bias + column) : 0;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    long row = row0 + warp_row + i * 16 + lane / 4 + 8 * half;
                    if (row >= m) continue;
                    float x = sum[i][j][2 * half], y = sum[i][j][2 * half + 1];
                    if (bias) x += low(pair), y += high(pair);
                    if constexpr (wide) {
                        ((float *)out)[row * n + column] = x;
                        ((float *)out)[row * n + column + 1] = y;
                    } else {
                        *(u32 *)((bf16 *)out + row * n + column) = pack(x, y);
                    }
                }
            }
        }
    }
};

// Many rows: products bound it. Few rows: reading the weights does.
using Many = Gemm<128, 128, 32, 2, 4, 3>;
using Few = Gemm<16, 32, 64, 1, 2, 6>;

#define GEMM(name, shape, blocks, wide)                                                            \
    KERNEL(shape::threads, blocks)                                                                 \
    name(const bf16 *left, const bf16 *right, const bf16 *bias, void *out, int m, int n, int k) {  \
        shape::run<wide>(left, right, bias, out, m, n, k);                                         \
    }                                                                                              \
    REGISTER(name)

GEMM(gemm_many, Many, 2, false)
GEMM(gemm_many_f32, Many, 2, true)
GEMM(gemm_few, Few, 4, false)
GEMM(gemm_few_f32, Few, 4, true)

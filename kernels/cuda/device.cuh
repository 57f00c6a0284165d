// tile.cuh on a GPU: sm_80 and later.
#pragma once

#define DEVICE __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define DEVICE_STATIC __device__ static __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define REGISTER(name)
// All shared memory of a block; its size is given at the launch.
#define SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

typedef uint4 Words;

DEVICE int thread_x() { return (int)threadIdx.x; }
DEVICE int block_x() { return (int)blockIdx.x; }
DEVICE int block_y() { return (int)blockIdx.y; }
DEVICE int block_z() { return (int)blockIdx.z; }

DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 bits_of(float x) { return __float_as_uint(x); }

// Two floats as a pair of bf16, each rounded to nearest, ties to even.
DEVICE u32 pack(float first, float second) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
    return out;
}

// 2^x to within 2 units in the last place; 1 for 0, 0 for minus infinity.
DEVICE float fast_exp2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// To within 2 units in the last place.
DEVICE float fast_quotient(float a, float b) { return __fdividef(a, b); }
DEVICE float root(float x) { return __fsqrt_rn(x); }
DEVICE u64 high_product(u64 a, u64 b) { return __umul64hi(a, b); }

DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
DEVICE u64 shuffle_xor(u64 x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
DEVICE u64 shuffle_up(u64 x, int lanes) { return __shfl_up_sync(~0u, x, lanes); }

DEVICE void add_shared(u64 *to, u64 x) { atomicAdd(to, x); }

DEVICE u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

DEVICE Words load(const bf16 *from) { return *(const Words *)from; }
DEVICE void store(bf16 *to, Words words) { *(Words *)to = words; }

// Copies 16 bytes to shared memory, or zeros if not `there`; they are there after `wait`.
DEVICE void copy_async(bf16 *to, const bf16 *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `left` of this thread's groups are under way.
template <int left> DEVICE void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 (&out)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrices_turned(u32 (&out)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sum[16 x 8] += a[16 x 16] * b[16 x 8], of one warp.
DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

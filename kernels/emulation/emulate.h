// tile.cuh on a CPU. Each thread of a block is a coroutine on a stack of its own; a barrier, or an
// instruction of a whole warp, hands over to the others. What a GPU does at once and in no order is
// done one by one, in an order that a seed chooses: a missing barrier shows as a result that depends
// on the seed. Shared memory begins as NaN, an asynchronous copy happens no earlier than its wait,
// and memory ends at a page that nobody may touch.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <vector>

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define DEVICE_STATIC static inline
#define KERNEL(threads, blocks) extern "C" void
#define SHARED(name) unsigned char *name = emulation::shared_memory

struct alignas(16) Words {
    u32 x, y, z, w;
};

namespace emulation {
[[noreturn]] void fault(const char *what);

struct Copy {
    bf16 *to;
    const bf16 *from;
    bool there;
};

struct Warp {
    // What the lanes hand each other, in turns: one set is read while the next is written.
    alignas(16) u64 slots[2][32][4];
    int arrived = 0, ended = 0;
    int site = 0;
    u64 met = 0;
};

struct Thread {
    void *stack_pointer = nullptr;
    int index = 0, lane = 0;
    bool done = false;
    Warp *warp = nullptr;
    // Groups of copies under way; the last is open.
    std::vector<std::vector<Copy>> copies;
};

extern Thread *self;
extern unsigned char *shared_memory;
extern int block[3];

void meet_block();
// Every lane must come to the same `site`.
void meet_warp(int site);

template <class T> T *slot(int lane) { return (T *)self->warp->slots[self->warp->met & 1][lane]; }

// Gives `mine` to the warp; answers whose turn the others' can be read in.
template <class T> u64 give(const T &mine, int site) {
    static_assert(sizeof(T) <= sizeof(u64[4]), "a slot holds 32 bytes");
    u64 turn = self->warp->met & 1;
    memcpy(self->warp->slots[turn][self->lane], &mine, sizeof(T));
    meet_warp(site);
    return turn;
}
template <class T> T take(u64 turn, int lane) {
    T out;
    memcpy(&out, self->warp->slots[turn][lane], sizeof(T));
    return out;
}

// Kernels by name, with how to unpack their arguments.
struct Kernel {
    const char *name;
    size_t arguments;
    void (*call)(const u64 *arguments);
    Kernel *next;
    static Kernel *first;
};
template <auto function> struct Caller;
template <class... A, void (*function)(A...)> struct Caller<function> {
    template <class T> static T as(const u64 *&next) {
        T out;
        memcpy(&out, next++, sizeof(T));
        return out;
    }
    static void call(const u64 *next) {
        // Braces keep the order.
        struct Unpacked {
            std::tuple<A...> values;
        } unpacked{std::tuple<A...>{as<A>(next)...}};
        std::apply(function, unpacked.values);
    }
    static constexpr size_t count = sizeof...(A);
};
template <auto function> struct Registered {
    Kernel kernel;
    explicit Registered(const char *name)
        : kernel{name, Caller<function>::count, Caller<function>::call, Kernel::first} {
        Kernel::first = &kernel;
    }
};
} // namespace emulation

#define REGISTER(name) static emulation::Registered<name> registered_##name(#name);

DEVICE int thread_x() { return emulation::self->index; }
DEVICE int block_x() { return emulation::block[0]; }
DEVICE int block_y() { return emulation::block[1]; }
DEVICE int block_z() { return emulation::block[2]; }

DEVICE float float_of(u32 bits) {
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
DEVICE u32 bits_of(float x) {
    u32 out;
    memcpy(&out, &x, 4);
    return out;
}
DEVICE u32 rounded(float x) {
    u32 bits = bits_of(x);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
DEVICE u32 pack(float first, float second) { return rounded(first) | rounded(second) << 16; }
DEVICE float fast_exp2(float x) {
    float out = exp2f(x);
    return out < 1.17549435e-38f ? 0.0f : out; // flushed, as there
}
DEVICE float fast_quotient(float a, float b) { return a / b; }
DEVICE float root(float x) { return sqrtf(x); }
DEVICE u64 high_product(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }

DEVICE void block_sync() { emulation::meet_block(); }
DEVICE void warp_sync() { emulation::meet_warp(1); }
DEVICE float shuffle_xor(float x, int mask) {
    u64 turn = emulation::give(x, 2);
    return emulation::take<float>(turn, emulation::self->lane ^ mask);
}
DEVICE u64 shuffle_xor(u64 x, int mask) {
    u64 turn = emulation::give(x, 3);
    return emulation::take<u64>(turn, emulation::self->lane ^ mask);
}
DEVICE u64 shuffle_up(u64 x, int lanes) {
    u64 turn = emulation::give(x, 4);
    int from = emulation::self->lane - lanes;
    return from < 0 ? x : emulation::take<u64>(turn, from);
}
DEVICE void add_shared(u64 *to, u64 x) { *to += x; }

DEVICE void aligned(const void *p) {
    if ((uintptr_t)p % 16) emulation::fault("16 bytes at an address that is no multiple of 16");
}
DEVICE Words load(const bf16 *from) {
    aligned(from);
    return *(const Words *)from;
}
DEVICE void store(bf16 *to, Words words) {
    aligned(to);
    *(Words *)to = words;
}
DEVICE void copy_async(bf16 *to, const bf16 *from, bool there) {
    aligned(to);
    if (there) aligned(from);
    emulation::self->copies.back().push_back({to, from, there});
}
DEVICE void commit() { emulation::self->copies.emplace_back(); }
template <int left> DEVICE void wait() {
    auto &copies = emulation::self->copies;
    // The open group does not count.
    while (copies.size() > left + 1u) {
        for (auto &copy : copies.front()) {
            if (copy.there) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        copies.erase(copies.begin());
    }
}

DEVICE void load_matrices(u32 (&out)[4], const bf16 *row) {
    aligned(row);
    u64 turn = emulation::give(row, 5);
    int lane = emulation::self->lane;
    for (int i = 0; i < 4; i++) {
        const bf16 *from = emulation::take<const bf16 *>(turn, 8 * i + lane / 4);
        out[i] = from[2 * (lane % 4)] | (u32)from[2 * (lane % 4) + 1] << 16;
    }
}
DEVICE void load_matrices_turned(u32 (&out)[4], const bf16 *row) {
    aligned(row);
    u64 turn = emulation::give(row, 6);
    int lane = emulation::self->lane;
    for (int i = 0; i < 4; i++) {
        int first = 8 * i + 2 * (lane % 4);
        u32 low = emulation::take<const bf16 *>(turn, first)[lane / 4];
        u32 high = emulation::take<const bf16 *>(turn, first + 1)[lane / 4];
        out[i] = low | high << 16;
    }
}

// The products of one element one after another. A product of two bf16 is exact in f32: each step has
// one rounding.
DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Given {
        u64 words[3];
    } given = {{a[0] | (u64)a[1] << 32, a[2] | (u64)a[3] << 32, b0 | (u64)b1 << 32}};
    u64 turn = emulation::give(given, 7);
    int lane = emulation::self->lane, group = lane / 4, place = lane % 4;
    const auto &slots = emulation::self->warp->slots[turn];
    float left[2][16], right[2][16];
    for (int holder = 0; holder < 4; holder++) {
        for (int half = 0; half < 2; half++) {
            u64 word = slots[group * 4 + holder][half];
            for (int j = 0; j < 2; j++) {
                int k = half * 8 + holder * 2 + j;
                left[0][k] = float_of((u32)(word >> 16 * j) << 16);
                left[1][k] = float_of((u32)(word >> (32 + 16 * j)) << 16);
                for (int column = 0; column < 2; column++) {
                    u64 other = slots[(2 * place + column) * 4 + holder][2];
                    right[column][k] = float_of((u32)(other >> (32 * half + 16 * j)) << 16);
                }
            }
        }
    }
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 16; k++) sum[i] += left[i / 2][k] * right[i % 2][k];
}

// What goes over logits: an order of floats as unsigned numbers.
#pragma once
#include "tile.cuh"

DEVICE u32 ordered(float x) {
    u32 bits = bits_of(x + 0.0f); // minus zero is zero
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE float unordered(u32 key) { return float_of(key >> 31 ? key & 0x7fffffffu : ~key); }

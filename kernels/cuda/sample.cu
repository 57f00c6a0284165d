// From logits to tokens.
//
//   logits  f32 [rows][vocabulary]
//   allowed u32 [rows][ceil(vocabulary / 32)], or null: a bit for each token that may be chosen
//   counts  i32 [rows][vocabulary], or null: how often each token has occurred
//   choices [rows]: see Choice
//   out     u32 [rows]; the vocabulary's size if no logit may be chosen or is a number
//
// Grid (rows), 1024 threads.
//
// A row: penalties; the first of the highest; without a temperature, that is the token. Weights are
// floor(2^40 * e^((x - highest) / temperature)), integers, so that their sums are exact and depend on
// no order. Those below min_p * 2^40 go; then top_k; then of the rest top_p; equals of the last one that
// stays, stay. The token is the first at which the sum of weights, in order of tokens, exceeds
// floor(random * total / 2^64), random from Philox4x32-10 keyed by seed and counted by position.
// No contraction: the token is the reference's.
//
// Bound: bytes, 4 * rows * vocabulary (twelve passes with all filters; all but the first from L2).
#include "logits.cuh"

struct Choice {
    float temperature, top_p, min_p;
    int top_k; // 0: off
    float repetition, presence, frequency; // 1, 0, 0: off
    int unused;
    u64 seed, position;
};

struct Logits {
    const float *row;
    const u32 *allowed;
    const int *counts;
    const Choice *choice;

    DEVICE_MEMBER float at(int token) const {
        if (allowed && !(allowed[token / 32] >> token % 32 & 1)) return -INFINITY;
        float x = row[token];
        if (counts && counts[token] > 0) {
            x = x > 0.0f ? x / choice->repetition : x * choice->repetition;
            x = x - choice->presence - choice->frequency * (float)counts[token];
        }
        return x != x ? -INFINITY : x;
    }
};

DEVICE u64 weight_of(float x, float highest, float temperature) {
    float power = exact_exp((x - highest) / temperature);
    return (u64)(power * 1099511627776.0f); // 2^40
}

DEVICE u64 philox(u64 seed, u64 position) {
    u32 c0 = (u32)position, c1 = (u32)(position >> 32), c2 = 0, c3 = 0;
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
    for (int i = 0; i < 10; i++) {
        u64 first = (u64)c0 * 0xD2511F53u, second = (u64)c2 * 0xCD9E8D57u;
        c0 = (u32)(second >> 32) ^ c1 ^ k0;
        c1 = (u32)second;
        c2 = (u32)(first >> 32) ^ c3 ^ k1;
        c3 = (u32)first;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (u64)c0 << 32 | c1;
}

struct Candidates {
    Logits logits;
    int vocabulary;
    float highest, temperature;
    u64 least;      // weights below it are gone
    u64 *histogram; // [256], shared
    u64 *found;     // [2], shared

    DEVICE_MEMBER u64 weight(int token, u32 cut, u32 &key) const {
        float x = logits.at(token);
        key = ordered(x);
        if (key < cut || x == -INFINITY) return 0;
        u64 weight = weight_of(x, highest, temperature);
        return weight < least ? 0 : weight;
    }

    // The highest key such that what has it or more holds `target`, in tokens or in weight; `cut` if
    // nothing does. Eight bits at a time, from above.
    DEVICE_MEMBER u32 select(u64 target, bool tokens, u32 cut) const {
        u32 prefix = 0;
        for (int shift = 24; shift >= 0; shift -= 8) {
            if (thread_x() < 256) histogram[thread_x()] = 0;
            block_sync();
            for (int token = thread_x(); token < vocabulary; token += 1024) {
                u32 key;
                u64 mass = weight(token, cut, key);
                bool in = shift == 24 || key >> (shift + 8) == prefix >> (shift + 8);
                if (mass && in) add_shared(&histogram[key >> shift & 255], tokens ? 1 : mass);
            }
            block_sync();
            if (thread_x() == 0) {
                int digit = 255;
                while (digit >= 0 && histogram[digit] < target) target -= histogram[digit--];
                found[0] = (u64)(long)digit;
                found[1] = target;
            }
            block_sync();
            long digit = (long)found[0];
            target = found[1];
            block_sync();
            if (digit < 0) return cut;
            prefix |= (u32)digit << shift;
        }
        return prefix;
    }
};

// The sum over a block, and what stands before this thread in it; `sums` holds 32.
DEVICE u64 before_me(u64 mine, u64 *sums, u64 &total) {
    int lane = thread_x() % 32, warp = thread_x() / 32;
    u64 running = mine;
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        u64 other = shuffle_up(running, lanes);
        if (lane >= lanes) running += other;
    }
    if (lane == 31) sums[warp] = running;
    block_sync();
    u64 before = 0;
    total = 0;
    for (int i = 0; i < 32; i++) {
        if (i < warp) before += sums[i];
        total += sums[i];
    }
    block_sync();
    return before + running - mine;
}

KERNEL(1024, 1)
sample(const float *logits, const u32 *allowed, const int *counts, const Choice *choices, u32 *out,
       int vocabulary) {
    SHARED(memory);
    u64 *histogram = (u64 *)memory, *found = histogram + 256, *sums = found + 2; // 256 + 2 + 32
    int row = block_x();
    const Choice *choice = choices + row;
    Logits mine = {logits + (long)row * vocabulary,
                   allowed ? allowed + (long)row * ((vocabulary + 31) / 32) : allowed,
                   counts ? counts + (long)row * vocabulary : counts, choice};

    // The key above, the token's complement below: the highest is the first of the highest.
    u64 best = 0;
    for (int token = thread_x(); token < vocabulary; token += 1024) {
        float x = mine.at(token);
        u64 here = (u64)ordered(x) << 32 | ~(u32)token;
        if (x != -INFINITY && here > best) best = here;
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        u64 other = shuffle_xor(best, mask);
        best = other > best ? other : best;
    }
    if (thread_x() % 32 == 0) sums[thread_x() / 32] = best;
    block_sync();
    for (int i = 0; i < 32; i++) best = sums[i] > best ? sums[i] : best;
    block_sync();

    u32 first = best ? ~(u32)best : (u32)vocabulary;
    float highest = unordered((u32)(best >> 32));
    if (!best || !(choice->temperature > 0.0f) || highest == INFINITY) {
        if (thread_x() == 0) out[row] = first;
        return;
    }
    u64 least = (u64)(choice->min_p * 1099511627776.0f);
    Candidates all = {mine, vocabulary, highest, choice->temperature, least ? least : 1, histogram,
                      found};
    int each = (vocabulary + 1023) / 1024, begin = thread_x() * each;
    int end = begin + each < vocabulary ? begin + each : vocabulary;
    u32 cut = 0, key;
    if (choice->top_k > 0) cut = all.select(choice->top_k, true, cut);
    u64 own = 0, total;
    for (int token = begin; token < end; token++) own += all.weight(token, cut, key);
    u64 before = before_me(own, sums, total);
    if (choice->top_p < 1.0f) {
        u64 target = (u64)((double)total * (double)choice->top_p);
        cut = all.select(target ? target : 1, false, cut);
        own = 0;
        for (int token = begin; token < end; token++) own += all.weight(token, cut, key);
        before = before_me(own, sums, total);
    }
    u64 target = high_product(philox(choice->seed, choice->position), total);
    if (target < before || target - before >= own) return;
    for (int token = begin; token < end; token++) {
        before += all.weight(token, cut, key);
        if (before > target) {
            out[row] = (u32)token;
            return;
        }
    }
}
REGISTER(sample)

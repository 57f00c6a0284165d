// Before and behind sampling: biases and penalties, and what is reported of each row.
//
//   logits   f32 [rows][vocabulary]
//   starts   u32 [rows + 1]: the entries of each row
//   entries  [starts[rows]]: see Entry; a row names no token twice
//   tokens   u32 [rows]: what was chosen
//   wanted   u32 [rows]: so many of the likeliest tokens, at most 20; ~0: no probability at all
//   records  [rows]: see Record
//
// Grid (rows), 256 threads. `adjust` changes logits and keeps what they were; `note` puts that back
// first: probabilities are those before biases and penalties.
//
// Order: a token's logit stands alone. The sum of powers: thread t adds those of t, t + 256, ... in f64,
// then threads are added in order. No contraction: the result is the reference's, bit for bit.
//
// Bound: bytes, 4 * rows * vocabulary; with probabilities (2 + wanted) times that, from L2.
#include "logits.cuh"

struct Entry {
    u32 token;
    float bias, penalty; // logit + bias - penalty
    float original;      // kept here by `adjust`
};

struct Likely {
    u32 token;
    float logit;
};

struct Record {
    u32 token, faults; // 1: a logit is not finite; 2: no token could be chosen
    float taken, highest;
    double total; // of e^(logit - highest)
    u32 count, unused;
    Likely likeliest[20];
};

KERNEL(256, 4)
adjust(float *logits, const u32 *starts, Entry *entries, int vocabulary) {
    float *row = logits + (long)block_x() * vocabulary;
    for (u32 i = starts[block_x()] + thread_x(); i < starts[block_x() + 1]; i += 256) {
        Entry &entry = entries[i];
        if (entry.token >= (u32)vocabulary) continue;
        entry.original = row[entry.token];
        row[entry.token] = entry.original + entry.bias - entry.penalty;
    }
}
REGISTER(adjust)

// The highest over a block; `slots` holds 8.
DEVICE u64 block_highest(u64 mine, u64 *slots) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        u64 other = shuffle_xor(mine, mask);
        mine = other > mine ? other : mine;
    }
    block_sync(); // nobody reads the last time's slots any more
    if (thread_x() % 32 == 0) slots[thread_x() / 32] = mine;
    block_sync();
    for (int i = 0; i < 8; i++) mine = slots[i] > mine ? slots[i] : mine;
    return mine;
}

// The key above, the token's complement below: the highest is the first of the highest.
DEVICE u64 place_of(float x, int token) { return (u64)ordered(x) << 32 | ~(u32)token; }

KERNEL(256, 4)
note(float *logits, const u32 *starts, const Entry *entries, const u32 *tokens, const u32 *wanted,
     Record *records, int vocabulary) {
    SHARED(memory);
    u64 *slots = (u64 *)memory;           // [8]
    double *sums = (double *)(slots + 8); // [256]
    float *row = logits + (long)block_x() * vocabulary;
    Record &record = records[block_x()];
    for (u32 i = starts[block_x()] + thread_x(); i < starts[block_x() + 1]; i += 256)
        if (entries[i].token < (u32)vocabulary) row[entries[i].token] = entries[i].original;
    block_sync();

    u64 best = 0, fault = 0;
    for (int token = thread_x(); token < vocabulary; token += 256) {
        float x = row[token];
        if (!(x - x == 0.0f)) fault = 1;
        u64 here = place_of(x, token);
        best = here > best ? here : best;
    }
    best = block_highest(best, slots);
    fault = block_highest(fault, slots);
    u32 token = tokens[block_x()], count = wanted[block_x()];
    bool chosen = token < (u32)vocabulary;
    float highest = unordered((u32)(best >> 32));
    if (thread_x() == 0) {
        record.token = token;
        record.faults = (u32)fault | (chosen ? 0 : 2);
        record.taken = chosen ? row[token] : 0.0f;
        record.highest = highest;
        record.total = 0.0;
        record.count = record.unused = 0;
    }
    if (count == ~0u) return;

    double sum = 0.0;
    for (int i = thread_x(); i < vocabulary; i += 256) sum += (double)exact_exp(row[i] - highest);
    sums[thread_x()] = sum;
    block_sync();
    if (thread_x() == 0) {
        sum = 0.0;
        for (int i = 0; i < 256; i++) sum += sums[i];
        record.total = sum;
    }
    count = count < 20 ? count : 20;
    count = count < (u32)vocabulary ? count : (u32)vocabulary;
    u64 below = ~(u64)0;
    for (u32 i = 0; i < count; i++) {
        u64 next = 0;
        for (int other = thread_x(); other < vocabulary; other += 256) {
            u64 here = place_of(row[other], other);
            if (here < below && here > next) next = here;
        }
        below = block_highest(next, slots);
        if (thread_x() == 0) {
            record.likeliest[i].token = ~(u32)below;
            record.likeliest[i].logit = unordered((u32)(below >> 32));
            record.count = i + 1;
        }
    }
}
REGISTER(note)

// Runs kernels on a CPU, as its parent asks on stdin and reads on stdout; all numbers little-endian.
//
//   A bytes:u64                                  -> address:u64
//   F address:u64                                -> nothing
//   W address:u64 bytes:u64 content              -> nothing
//   R address:u64 bytes:u64                      -> content
//   L name:u32,text grid:3*u32 threads:u32 shared:u32 seed:u32 count:u32 arguments:count*u64
//                                                -> 0:u32, or 1:u32 if there is no such kernel
//
// A kernel that breaks a rule ends the process, with the reason on stderr.
#include "../cuda/tile.cuh"
#include "../cuda/attention_decode.cu"
#include "../cuda/attention_prefill.cu"
#include "../cuda/embed.cu"
#include "../cuda/gate.cu"
#include "../cuda/gemm.cu"
#include "../cuda/logits.cu"
#include "../cuda/norm.cu"
#include "../cuda/rope.cu"
#include "../cuda/sample.cu"
#include "../cuda/wipe.cu"
#include "../ladder/prefill.cu"

#include <algorithm>
#include <csignal>
#include <map>
#include <random>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the switch between stacks is written for x86-64"
#endif

// Saves what a function must keep, and goes on with another stack.
extern "C" void switch_stack(void **from, void *to);
asm(R"(
.text
.globl switch_stack
switch_stack:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");

namespace emulation {
Kernel *Kernel::first = nullptr;
Thread *self = nullptr;
unsigned char *shared_memory = nullptr;
int block[3];

namespace {
constexpr size_t stack_bytes = 256 << 10, page = 4096;
const char *running = "none";
void *scheduler_stack;
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<char *> stacks;
int alive, block_arrived;
u64 block_met, progress;
const Kernel *kernel;
const u64 *kernel_arguments;
std::map<u64, std::pair<char *, size_t>> mapped;

void hand_over() { switch_stack(&self->stack_pointer, scheduler_stack); }

void thread_main() {
    kernel->call(kernel_arguments);
    self->done = true;
    self->warp->ended++;
    alive--;
    progress++;
    hand_over();
    abort();
}

// Memory that ends, but for what fills 16 bytes, at a page without access.
char *guarded(size_t bytes, char **base, size_t *all) {
    size_t rounded = (bytes + 15) / 16 * 16, pages = (rounded + page - 1) / page * page;
    *all = pages + page;
    *base = (char *)mmap(nullptr, *all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*base == MAP_FAILED) fault("no memory");
    mprotect(*base + pages, page, PROT_NONE);
    return *base + pages - rounded;
}

void start(Thread &thread, int index) {
    thread = Thread();
    thread.index = index;
    thread.lane = index % 32;
    thread.warp = &warps[index / 32];
    thread.copies.resize(1);
    while ((int)stacks.size() <= index) {
        stacks.push_back((char *)mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(stacks.back(), page, PROT_NONE);
    }
    // Six registers, the address to go to, and one slot that keeps the stack aligned.
    void **top = (void **)(stacks[index] + stack_bytes) - 8;
    memset(top, 0, 64);
    top[6] = (void *)thread_main;
    thread.stack_pointer = top;
}

void run_block(int count, std::mt19937 &chance) {
    threads.resize(count);
    warps.assign((count + 31) / 32, Warp());
    std::vector<int> order;
    for (int i = 0; i < count; i++) start(threads[i], i), order.push_back(i);
    alive = count, block_arrived = 0;
    while (alive) {
        std::shuffle(order.begin(), order.end(), chance);
        u64 before = progress;
        for (int index : order) {
            if (threads[index].done) continue;
            self = &threads[index];
            switch_stack(&scheduler_stack, self->stack_pointer);
        }
        if (progress == before) fault("threads wait for each other");
    }
}

void launch(const u32 *grid, u32 count, u32 shared_bytes, u32 seed) {
    char *base;
    size_t all;
    shared_memory = (unsigned char *)guarded(shared_bytes, &base, &all);
    if (count % 32 || count > 1024) fault("a block has 32 to 1024 threads, by 32");
    std::mt19937 chance(seed);
    std::vector<u64> order;
    for (u64 i = 0; i < (u64)grid[0] * grid[1] * grid[2]; i++) order.push_back(i);
    std::shuffle(order.begin(), order.end(), chance);
    for (u64 index : order) {
        block[0] = index % grid[0];
        block[1] = index / grid[0] % grid[1];
        block[2] = index / grid[0] / grid[1];
        memset(shared_memory, 0xff, shared_bytes);
        run_block(count, chance);
    }
    munmap(base, all);
}

void take_in(void *to, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(0, (char *)to + done, bytes - done);
        if (got <= 0) exit(done || got < 0);
        done += got;
    }
}
template <class T> T take_in() {
    T out;
    take_in(&out, sizeof(T));
    return out;
}
void put_out(const void *from, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t put = write(1, (const char *)from + done, bytes - done);
        if (put <= 0) exit(1);
        done += put;
    }
}

void answer_launch() {
    std::string name(take_in<u32>(), ' ');
    take_in(&name[0], name.size());
    u32 shape[7];
    take_in(shape, sizeof shape);
    std::vector<u64> arguments(shape[6]);
    take_in(arguments.data(), 8 * arguments.size());
    for (kernel = Kernel::first; kernel && kernel->name != name; kernel = kernel->next) {}
    u32 unknown = !kernel || kernel->arguments != arguments.size();
    if (!unknown) {
        running = kernel->name;
        kernel_arguments = arguments.data();
        launch(shape, shape[3], shape[4], shape[5]);
    }
    put_out(&unknown, 4);
}

void answer(char command) {
    switch (command) {
    case 'A': {
        u64 bytes = take_in<u64>();
        char *base;
        size_t all;
        char *memory = guarded(bytes, &base, &all);
        memset(memory, 0xff, (bytes + 15) / 16 * 16);
        u64 address = (u64)memory;
        mapped[address] = {base, all};
        put_out(&address, 8);
        break;
    }
    case 'F': {
        auto found = mapped.find(take_in<u64>());
        if (found == mapped.end()) fault("freed what was not allocated");
        munmap(found->second.first, found->second.second);
        mapped.erase(found);
        break;
    }
    case 'W': {
        u64 address = take_in<u64>(), bytes = take_in<u64>();
        take_in((void *)address, bytes);
        break;
    }
    case 'R': {
        u64 address = take_in<u64>(), bytes = take_in<u64>();
        put_out((void *)address, bytes);
        break;
    }
    case 'L': answer_launch(); break;
    default: fault("an unknown command");
    }
}
} // namespace

void fault(const char *what) {
    fprintf(stderr, "emulation: %s: block %d,%d,%d thread %d: %s\n", running, block[0], block[1],
            block[2], self ? self->index : -1, what);
    _exit(3);
}

void meet_block() {
    u64 met = block_met;
    progress++;
    if (++block_arrived == (int)threads.size()) {
        block_arrived = 0;
        block_met++;
        return;
    }
    while (met == block_met) {
        if (alive != (int)threads.size()) fault("a barrier that some threads never reach");
        hand_over();
    }
}

void meet_warp(int site) {
    Warp &warp = *self->warp;
    if (warp.arrived && warp.site != site) fault("lanes of a warp are at different instructions");
    warp.site = site;
    u64 met = warp.met;
    progress++;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.met++;
        return;
    }
    while (met == warp.met) {
        if (warp.ended) fault("a warp some of whose lanes have ended");
        hand_over();
    }
}
} // namespace emulation

static void touched(int) { emulation::fault("touched memory that is not its own"); }

int main() {
    static char stack[1 << 16];
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    struct sigaction action = {};
    action.sa_handler = touched;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    for (;;) emulation::answer(emulation::take_in<char>());
}

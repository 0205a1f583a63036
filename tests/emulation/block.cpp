// The scheduler. See block.h.
#include "emulation/block.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <tuple>
#include <utility>

#include "emulation/shuffle.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace gptoss::emulation {

Thread* running = nullptr;

namespace {

constexpr unsigned kMaxThreads = 1024;

struct FreeMemory {
    void operator()(std::byte* p) const { std::free(p); }
};

struct Block {
    Context caller;
    std::vector<Stack> stacks;
    std::vector<Thread> threads = std::vector<Thread>(kMaxThreads);
    Warp warps[kMaxThreads / 32];
    // Threads to run in this round, and in the next.
    Thread *ready[kMaxThreads], *upcoming[kMaxThreads];
    unsigned ready_next = 0, ready_count = 0, upcoming_count = 0;
    unsigned thread_count = 0, exited = 0;
    // The barrier of the block.
    unsigned arrived = 0;
    int sum = 0, released_sum = 0;
    const Collective* barrier = nullptr;
    Where barrier_where;
    const Launch* launch = nullptr;
    Random random{0};
    std::unique_ptr<std::byte, FreeMemory> shared;
    std::string failure;
};

// Never destroyed: kernels may run as late as the host program likes.
Block* const the = new Block;

const char* short_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash != nullptr ? slash + 1 : path;
}

std::string place(const Collective& kind, const Where& where) {
    std::ostringstream out;
    out << kind.name << " (" << short_name(where.file_name()) << ':' << where.line() << ')';
    return out.str();
}

// "32 wait in __syncthreads (a.cu:7), 32 exited"
std::string whereabouts() {
    std::map<std::string, int> waiting;
    for (unsigned i = 0; i < the->thread_count; ++i) {
        const Thread& thread = the->threads[i];
        if (!thread.exited && thread.waits_in != nullptr) {
            ++waiting[place(*thread.waits_in, thread.where)];
        }
    }
    std::ostringstream out;
    for (const auto& [name, count] : waiting) out << count << " wait in " << name << ", ";
    out << the->exited << " exited, of " << the->thread_count << " threads of block (" << blockIdx.x
        << ", " << blockIdx.y << ", " << blockIdx.z << ')';
    return out.str();
}

// Who runs next; null where nobody can.
Thread* next_thread() {
    Block& b = *the;
    if (b.ready_next == b.ready_count) {
        b.ready_count = std::exchange(b.upcoming_count, 0);
        b.ready_next = 0;
        if (b.ready_count == 0) return nullptr;
        std::memcpy(b.ready, b.upcoming, b.ready_count * sizeof(Thread*));
        shuffle(b.ready, b.ready_count, b.random);
    }
    Thread* next = b.ready[b.ready_next++];
    if (b.ready_next < b.ready_count) {
        __builtin_prefetch(b.ready[b.ready_next]);
    }
    running = next;
    threadIdx = next->index;
    return next;
}

void wait(Thread& self) {
    Thread* next = next_thread();
    if (next != &self) switch_context(self.context, next ? next->context : the->caller);
    self.waits_in = nullptr;
}

void thread_main() {
    Thread& self = *running;
    entered(self.context);
    bool threw = false;
    try {
        the->launch->body();
    } catch (...) {
        threw = true;
    }
    if (threw) fail("an exception left the kernel");
    if (!self.products.empty()) fail("a thread ends before its products");
    self.copies.clear();
    self.exited = true;
    ++the->exited;
    Thread* next = next_thread();
    leave_context(self.context, next ? next->context : the->caller);
}

void start_threads() {
    Block& b = *the;
    b.ready_next = b.ready_count = b.arrived = b.exited = 0;
    b.sum = 0;
    b.upcoming_count = b.thread_count;
    for (unsigned i = 0; i < b.thread_count; ++i) {
        Thread& thread = b.threads[i];
        prepare(thread.context, b.stacks[i], i, thread_main);
        const dim3& size = b.launch->block;
        thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        thread.lane = i % 32;
        thread.warp = &b.warps[i / 32];
        thread.waits_in = nullptr;
        thread.copies.clear();
        thread.copy_groups = 0;
        thread.products.clear();
        thread.product_groups = 0;
        thread.exited = false;
        b.upcoming[i] = &thread;
    }
    for (unsigned first = 0; first < b.thread_count; first += 32) {
        const unsigned lanes = b.thread_count - first;
        b.warps[first / 32] = {&b.threads[first], lanes < 32 ? (1u << lanes) - 1 : ~0u, 0};
    }
}

void run_block() {
    Block& b = *the;
    std::memset(b.shared.get(), 0xff, b.launch->shared_bytes);
    start_threads();
    switch_context(b.caller, next_thread()->context);
    running = nullptr;
    if (b.failure.empty() && b.exited < b.thread_count) {
        b.failure = "threads wait for ever: " + whereabouts();
    }
    if (!b.failure.empty()) {
        for (const Stack& stack : b.stacks) forget_frames(stack);
    }
}

void wake(Thread& thread) { the->upcoming[the->upcoming_count++] = &thread; }

void complete(Warp& warp, const Collective& kind, unsigned mask, unsigned lanes) {
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const Thread& thread = warp.lanes[__builtin_ctz(rest)];
        if (thread.waits_in != &kind || thread.mask != mask) {
            fail("lanes of a warp diverge (operation or mask): " + whereabouts());
        }
    }
    if (kind.compute != nullptr) kind.compute(warp, lanes);
    warp.arrived &= ~lanes;
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        wake(warp.lanes[__builtin_ctz(rest)]);
    }
}

}  // namespace

int synchronize_block(const Collective& kind, int value, Where where) {
    Block& b = *the;
    Thread& self = *running;
    self.waits_in = &kind;
    self.where = where;
    if (b.arrived == 0) {
        b.barrier = &kind;
        b.barrier_where = where;
    } else if (b.barrier != &kind || b.barrier_where.line() != where.line()) {
        fail("threads of a block diverge at a barrier: " + whereabouts());
    }
    b.sum += value;
    if (++b.arrived == b.thread_count) {
        b.arrived = 0;
        b.released_sum = std::exchange(b.sum, 0);
        for (unsigned i = 0; i < b.thread_count; ++i) wake(b.threads[i]);
    }
    wait(self);
    return b.released_sum;
}

uint64_t warp_collective(const Collective& kind, unsigned mask, uint64_t operand, uint64_t argument,
                         Where where) {
    Thread& self = *running;
    Warp& warp = *self.warp;
    self.waits_in = &kind;
    self.mask = mask;
    self.operand = operand;
    self.argument = argument;
    self.where = where;
    if ((mask >> self.lane & 1) == 0) fail("a lane is not in its own mask: " + place(kind, where));
    warp.arrived |= 1u << self.lane;
    const unsigned lanes = mask & warp.exists;
    if ((warp.arrived & lanes) == lanes) complete(warp, kind, mask, lanes);
    wait(self);
    return self.result;
}

void fail(std::string&& why) {
    the->failure = std::move(why);
    leave_context(running->context, the->caller);
}

void yield() {
    wake(*running);
    wait(*running);
}

std::byte* dynamic_shared_memory() { return the->shared.get(); }

std::string run_grid(const Launch& launch, uint64_t seed) {
    Block& b = *the;
    b.launch = &launch;
    b.random = Random{seed};
    b.failure.clear();
    b.thread_count = launch.block.x * launch.block.y * launch.block.z;
    while (b.stacks.size() < b.thread_count) b.stacks.emplace_back();
    // Its exact size, so that the address sanitizer sees an overrun.
    void* shared = nullptr;
    if (posix_memalign(&shared, 1024, launch.shared_bytes) != 0) return "no memory";
    b.shared.reset(static_cast<std::byte*>(shared));
    gridDim = launch.grid;
    blockDim = launch.block;
    std::vector<uint32_t> order(size_t{launch.grid.x} * launch.grid.y * launch.grid.z);
    std::iota(order.begin(), order.end(), 0u);
    shuffle(order.data(), order.size(), b.random);
    for (const uint32_t id : order) {
        const auto [x, y, z] = launch.grid;
        blockIdx = {id % x, id / x % y, id / (x * y)};
        run_block();
        if (!b.failure.empty()) break;
    }
    b.shared.reset();
    return b.failure;
}

}  // namespace gptoss::emulation

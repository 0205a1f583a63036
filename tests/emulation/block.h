// Runs a grid: blocks one after another, the threads of a block as fibers, both in random order.
//
// A thread runs until it waits: at a barrier of its block or in a collective of its warp. The last
// to come completes it and makes all ready again; when no thread is ready any more, those that
// became ready meanwhile are shuffled and run. When none is, and some have not ended, the kernel
// has failed. One host thread at a time runs kernels (under the runtime's mutex), hence globals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

#include "emulation/fiber.h"
#include "emulation/vectors.h"

#pragma GCC visibility push(hidden)

// Of the running thread and block, as in CUDA.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace gptoss::emulation {

using Where = std::source_location;

struct Warp;

// A collective operation is known by the address of its description.
struct Collective {
    const char* name;
    // Every lane's result from every lane's operand; null where there is none.
    void (*compute)(Warp& warp, unsigned lanes) = nullptr;
};

// A copy of cp.async that nobody has waited for yet.
struct AsyncCopy {
    void* to;
    const void* from;  // null: zeros
    unsigned bytes, group;
};

// A warpgroup's product that nobody has waited for yet; pointers are to the thread's registers.
struct Product {
    float* sums;
    const uint32_t* a;
    uint64_t b;  // where its rows lie in shared memory
    int rows;
    unsigned group;
};

struct Thread {
    Context context;
    uint3 index;
    unsigned lane, mask;
    Warp* warp;
    const Collective* waits_in;  // null while it runs
    uint64_t operand, argument, result;
    Where where;
    std::vector<AsyncCopy> copies;
    unsigned copy_groups;
    std::vector<Product> products;
    unsigned product_groups;
    bool exited;
};

struct Warp {
    Thread* lanes;
    unsigned exists, arrived;  // a bit per lane
};

extern Thread* running;

struct Launch {
    dim3 grid, block;
    size_t shared_bytes;
    const void* kernel;
    std::function<void()> body;
};

// Runs all of it; what went wrong, in one line, or nothing. `seed` decides the order.
std::string run_grid(const Launch& launch, uint64_t seed);

// Below: called by kernels.

// Sum over the block of `value`.
int synchronize_block(const Collective& kind, int value, Where where);
// This lane's result, once all lanes of the mask have come.
uint64_t warp_collective(const Collective& kind, unsigned mask, uint64_t operand, uint64_t argument,
                         Where where);
// Ends the kernel with an error. Nothing on the thread's stack is destroyed: the text is moved out.
[[noreturn]] void fail(std::string&& why);
// Lets other threads run first.
void yield();
std::byte* dynamic_shared_memory();

}  // namespace gptoss::emulation

#pragma GCC visibility pop

// The functions of backend/cuda/warpgroup.cuh over ordinary C++.
//
// A product is computed when its threads wait for it, of what its registers and the shared memory
// hold then: one that reads what has been overwritten too early, and a sum read too early, are
// wrong. Its 64 x rows sums are four warps' 16 x rows, each computed by itself.
#pragma once

#include "emulation/ptx.h"

namespace gptoss::emulation {

#pragma GCC visibility push(hidden)
void start_product(float* sums, const uint32_t* a, uint64_t b, int rows);
void wait_for_products(unsigned pending_groups, Where where);
#pragma GCC visibility pop

}  // namespace gptoss::emulation

namespace gptoss::cuda {

inline std::byte* shared_tiles() { return emulation::dynamic_shared_memory(); }

inline void show_shared_to_products() {}
inline void begin_product() {}
inline void commit_product() { ++emulation::running->product_groups; }

template <int pending>
inline void wait_for_products(emulation::Where where = std::source_location::current()) {
    emulation::wait_for_products(pending, where);
}

inline void hold(uint32_t&) {}

template <int count>
inline void finish_products(float (&)[count],
                            emulation::Where where = std::source_location::current()) {
    emulation::wait_for_products(0, where);
}

// Here the distance from where the block's shared memory begins.
inline uint64_t describe_rows(const void* tile, int product) {
    return static_cast<uint64_t>(static_cast<const std::byte*>(tile) -
                                 emulation::dynamic_shared_memory()) +
           static_cast<uint64_t>(product) * 32;
}

template <int rows>
inline void start_product(float (&sums)[rows / 2], const uint32_t (&a)[4], uint64_t b) {
    emulation::start_product(sums, a, b, rows);
}

}  // namespace gptoss::cuda

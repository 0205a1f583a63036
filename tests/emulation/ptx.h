// The functions of backend/cuda/ptx.cuh over ordinary C++.
#pragma once

#include <cstring>

#include "emulation/collectives.h"
#include "emulation/formats.h"

namespace gptoss::emulation {

#pragma GCC visibility push(hidden)
void copy_async(void* shared, const void* global, unsigned bytes);
void wait_for_copies(unsigned pending_groups);
void multiply_tiles(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool f16,
                    Where where);
void load_tiles(uint32_t (&r)[4], const void* row, bool transposed, Where where);
#pragma GCC visibility pop

template <class T>
T load_aligned(const void* p) {
    if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) fail("a vector load is not aligned");
    T out;
    std::memcpy(&out, p, sizeof(T));
    return out;
}

}  // namespace gptoss::emulation

namespace gptoss::cuda {

inline std::byte* shared_memory() { return emulation::dynamic_shared_memory(); }

inline void prefetch_l2(const void*) {}
inline void prefetch_l2(const void*, uint32_t) {}
inline uint4 load_once_16(const void* p) { return emulation::load_aligned<uint4>(p); }
inline uint32_t load_once_4(const void* p) { return emulation::load_aligned<uint32_t>(p); }

// Exact products, summed as double with k ascending, added to c and rounded once.
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     emulation::Where where = std::source_location::current()) {
    emulation::multiply_tiles(c, a, b0, b1, false, where);
}

inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                    emulation::Where where = std::source_location::current()) {
    emulation::multiply_tiles(c, a, b0, b1, true, where);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* row,
                           emulation::Where where = std::source_location::current()) {
    emulation::load_tiles(r, row, false, where);
}

inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row,
                                      emulation::Where where = std::source_location::current()) {
    emulation::load_tiles(r, row, true, where);
}

// From here on the target is poison; the data come when this thread waits for them.
inline void copy_async_16(void* shared, const void* global, bool valid) {
    emulation::copy_async(shared, valid ? global : nullptr, 16);
}

inline void copy_async_commit() { ++emulation::running->copy_groups; }

template <int pending>
inline void copy_async_wait() {
    emulation::wait_for_copies(pending);
}

inline unsigned count_arrival(unsigned* counter) { return atomicAdd(counter, 1u); }

inline float power_of_two(float x) {
    const float out = exp2f(x);
    return out < 0x1p-126f ? 0.0f : out;
}

inline uint32_t pack_bf16(float low, float high) {
    return emulation::encode_bf16(low) | uint32_t{emulation::encode_bf16(high)} << 16;
}

inline uint32_t pack_f16(float low, float high) {
    return emulation::encode_f16(low) | uint32_t{emulation::encode_f16(high)} << 16;
}

inline float2 unpack_f16(uint32_t pair) {
    return {emulation::decode_f16(static_cast<uint16_t>(pair)),
            emulation::decode_f16(static_cast<uint16_t>(pair >> 16))};
}

inline uint32_t multiply_bf16(uint32_t a, uint32_t b) {
    const auto product = [&](int shift) -> uint32_t {
        return emulation::multiply_bf16(static_cast<uint16_t>(a >> shift),
                                        static_cast<uint16_t>(b >> shift));
    };
    return product(0) | product(16) << 16;
}

// A float holds more than twice the bits of either, so that rounding twice is rounding once.
inline uint32_t subtract_bf16(uint32_t a, uint32_t b) {
    const auto difference = [&](int shift) {
        return emulation::decode_bf16(static_cast<uint16_t>(a >> shift)) -
               emulation::decode_bf16(static_cast<uint16_t>(b >> shift));
    };
    return pack_bf16(difference(0), difference(16));
}

inline uint32_t subtract_f16(uint32_t a, uint32_t b) {
    const float2 x = unpack_f16(a), y = unpack_f16(b);
    return pack_f16(x.x - y.x, x.y - y.y);
}

inline uint32_t multiply_f16(uint32_t a, uint32_t b) {
    const float2 x = unpack_f16(a), y = unpack_f16(b);
    return pack_f16(x.x * y.x, x.y * y.y);
}

template <class T>
inline void forget(T&) {}

inline void wait_for_earlier_kernels() {}
inline void let_next_kernel_start() {}

}  // namespace gptoss::cuda

// Barriers, warp collectives and atomics under their CUDA names.
#pragma once

#include <cstring>
#include <type_traits>

#include "emulation/block.h"

inline constexpr int warpSize = 32;

namespace gptoss::emulation {

#pragma GCC visibility push(hidden)
extern const Collective kSyncThreads, kSyncThreadsOr, kSyncThreadsAnd, kSyncThreadsCount;
extern const Collective kSyncWarp, kShuffle, kShuffleXor, kShuffleUp, kShuffleDown, kBallot,
    kMatchAny, kReduceAdd, kReduceMax, kReduceMaxSigned, kReduceMin, kReduceMinSigned, kReduceOr,
    kReduceAnd, kReduceXor;
#pragma GCC visibility pop

template <class T>
uint64_t to_operand(T value) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    uint64_t out = 0;
    std::memcpy(&out, &value, sizeof(T));
    return out;
}

template <class T>
T from_operand(uint64_t bits) {
    T out;
    std::memcpy(&out, &bits, sizeof(T));
    return out;
}

// Lane `source` unless that lies outside [first, last] of this lane's segment.
template <class T>
T shuffle_from(const Collective& kind, unsigned mask, T value, int source, int first, int last,
               Where where) {
    const int self = static_cast<int>(running->lane);
    const int lane = source < first || source > last ? self : source;
    return from_operand<T>(
        warp_collective(kind, mask, to_operand(value), static_cast<uint64_t>(lane), where));
}

inline int lane_id() { return static_cast<int>(running->lane); }
inline int segment_first(int width) { return lane_id() & ~(width - 1); }
inline int segment_last(int width) { return lane_id() | (width - 1); }

}  // namespace gptoss::emulation

inline void __syncthreads(gptoss::emulation::Where where = std::source_location::current()) {
    gptoss::emulation::synchronize_block(gptoss::emulation::kSyncThreads, 0, where);
}

inline int __syncthreads_or(int value,
                            gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return synchronize_block(kSyncThreadsOr, value != 0, where) != 0;
}

inline int __syncthreads_and(int value,
                             gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return synchronize_block(kSyncThreadsAnd, value == 0, where) == 0;
}

inline int __syncthreads_count(int value,
                               gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return synchronize_block(kSyncThreadsCount, value != 0, where);
}

inline void __syncwarp(unsigned mask = ~0u,
                       gptoss::emulation::Where where = std::source_location::current()) {
    gptoss::emulation::warp_collective(gptoss::emulation::kSyncWarp, mask, 0, 0, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    const int lane = segment_first(width) | (source & (width - 1));
    return shuffle_from(kShuffle, mask, value, lane, 0, 31, where);
}

// A lane of an earlier segment may be read, one of a later segment may not.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return shuffle_from(kShuffleXor, mask, value, lane_id() ^ lanes, 0, segment_last(width), where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                 gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return shuffle_from(kShuffleUp, mask, value, lane_id() - static_cast<int>(lanes),
                        segment_first(width), 31, where);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                   gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return shuffle_from(kShuffleDown, mask, value, lane_id() + static_cast<int>(lanes), 0,
                        segment_last(width), where);
}

inline unsigned __ballot_sync(unsigned mask, int value,
                              gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return static_cast<unsigned>(warp_collective(kBallot, mask, value != 0, 0, where));
}

inline int __any_sync(unsigned mask, int value,
                      gptoss::emulation::Where where = std::source_location::current()) {
    return __ballot_sync(mask, value, where) != 0;
}

inline int __all_sync(unsigned mask, int value,
                      gptoss::emulation::Where where = std::source_location::current()) {
    return __ballot_sync(mask, value == 0, where) == 0;
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value,
                          gptoss::emulation::Where where = std::source_location::current()) {
    using namespace gptoss::emulation;
    return static_cast<unsigned>(warp_collective(kMatchAny, mask, to_operand(value), 0, where));
}

// What the hardware tells is whoever happens to run together; nothing may depend on it.
inline unsigned __activemask() { return gptoss::emulation::running->warp->exists; }

#define GPTOSS_REDUCE(function, type, kind)                                                  \
    inline type function(unsigned mask, type value,                                          \
                         gptoss::emulation::Where where = std::source_location::current()) { \
        using namespace gptoss::emulation;                                                   \
        return from_operand<type>(warp_collective(kind, mask, to_operand(value), 0, where)); \
    }
GPTOSS_REDUCE(__reduce_add_sync, int, kReduceAdd)
GPTOSS_REDUCE(__reduce_add_sync, unsigned, kReduceAdd)
GPTOSS_REDUCE(__reduce_max_sync, int, kReduceMaxSigned)
GPTOSS_REDUCE(__reduce_max_sync, unsigned, kReduceMax)
GPTOSS_REDUCE(__reduce_min_sync, int, kReduceMinSigned)
GPTOSS_REDUCE(__reduce_min_sync, unsigned, kReduceMin)
GPTOSS_REDUCE(__reduce_or_sync, unsigned, kReduceOr)
GPTOSS_REDUCE(__reduce_and_sync, unsigned, kReduceAnd)
GPTOSS_REDUCE(__reduce_xor_sync, unsigned, kReduceXor)
#undef GPTOSS_REDUCE

// Threads run one at a time, so plain code is atomic.
namespace gptoss::emulation {

template <class T, class F>
T exchange_with(T* p, F next) {
    const T old = *p;
    *p = next(old);
    return old;
}

template <class T>
T wrapping_add(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
        using U = std::make_unsigned_t<T>;
        return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
        return a + b;
    }
}

}  // namespace gptoss::emulation

#define GPTOSS_ATOMIC(function, type, result)                                         \
    inline type function(type* p, type value) {                                       \
        return gptoss::emulation::exchange_with(p, [&](type old) { return result; }); \
    }
#define GPTOSS_ATOMIC_INTEGERS(function, result) \
    GPTOSS_ATOMIC(function, int, result)         \
    GPTOSS_ATOMIC(function, unsigned, result)    \
    GPTOSS_ATOMIC(function, unsigned long long, result)
GPTOSS_ATOMIC_INTEGERS(atomicAdd, gptoss::emulation::wrapping_add(old, value))
GPTOSS_ATOMIC(atomicAdd, float, old + value)
GPTOSS_ATOMIC(atomicAdd, double, old + value)
GPTOSS_ATOMIC_INTEGERS(atomicMax, old < value ? value : old)
GPTOSS_ATOMIC_INTEGERS(atomicMin, value < old ? value : old)
GPTOSS_ATOMIC_INTEGERS(atomicOr, old | value)
GPTOSS_ATOMIC_INTEGERS(atomicAnd, old& value)
GPTOSS_ATOMIC_INTEGERS(atomicXor, old ^ value)
GPTOSS_ATOMIC_INTEGERS(atomicExch, ((void)old, value))
GPTOSS_ATOMIC(atomicExch, float, ((void)old, value))
#undef GPTOSS_ATOMIC_INTEGERS
#undef GPTOSS_ATOMIC

inline int atomicSub(int* p, int value) {
    return gptoss::emulation::exchange_with(p, [&](int old) { return old - value; });
}
inline unsigned atomicSub(unsigned* p, unsigned value) {
    return gptoss::emulation::exchange_with(p, [&](unsigned old) { return old - value; });
}
// Counts up to `last`, then starts again at 0.
inline unsigned atomicInc(unsigned* p, unsigned last) {
    return gptoss::emulation::exchange_with(
        p, [&](unsigned old) { return old >= last ? 0 : old + 1; });
}

template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    static_assert(std::is_integral_v<T> && (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8));
    return gptoss::emulation::exchange_with(p,
                                            [&](T old) { return old == expected ? value : old; });
}

inline void __nanosleep(unsigned) { gptoss::emulation::yield(); }
[[noreturn]] inline void __trap() { gptoss::emulation::fail("the kernel called __trap()"); }

// What both attention kernels share: the keys a row sees, where they lie, and the base of the
// softmax.
#pragma once

#include "backend/cuda/ptx.cuh"
#include "backend/stages.h"

namespace gptoss::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// The softmax is of powers of two: scores and sinks are in units of log2(e).
constexpr float kLog2E = 1.442695040888963407f;
// Where maxima start from: finite, so that no difference is infinity minus infinity.
constexpr float kLowest = -3.402823466e38f;
// The score of a key that is not seen.
__device__ __forceinline__ float hidden_score() { return -__int_as_float(0x7f800000); }

template <int head_dim>
constexpr float kScoreScale = kLog2E / (head_dim == 64 ? 8.0f : 5.656854249492380195f);

// The positions that a row sees, both ends included.
struct Span {
    int first, last;
};

__host__ __device__ inline Span seen_by(int position, int window) {
    return {window > 0 && position >= window ? position - window + 1 : 0, position};
}

// What a layer's keys are found by: the ring, or the array of pages.
__device__ __forceinline__ const void* kv_home(const KvView& kv, const AttentionArgs& a) {
    if (a.kv.window) return kv.ring;
    return kv.pages;
}

// Where one KV head's keys lie in the page or ring that holds a position. Sizes within a layer's
// part of it are far below 4 GiB.
template <class T, int head_dim>
__device__ __forceinline__ const std::byte* find_keys(const void* home, const AttentionArgs& a,
                                                      int kv_head, int position) {
    const auto* base = static_cast<const std::byte*>(home);
    if (!a.kv.window)
        base = static_cast<const std::byte* const*>(home)[unsigned(position) / a.kv.slots];
    return base + a.kv.offset + unsigned(kv_head * a.kv.slots) * unsigned(head_dim * sizeof(T));
}

// A ring may be shorter than what a slot was moved by.
__device__ __forceinline__ unsigned wrapped(unsigned slot, unsigned slots) {
    while (slot >= slots) slot -= slots;
    return slot;
}

// Bytes from a key to its value.
template <class T, int head_dim>
__device__ __forceinline__ unsigned to_values(const AttentionArgs& a) {
    return unsigned(a.kv_heads * a.kv.slots) * unsigned(head_dim * sizeof(T));
}

}  // namespace gptoss::cuda

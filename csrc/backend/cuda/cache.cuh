// Where keys and values lie (stages.h, KvView and KvLayer; on this device a tile is one position).
#pragma once

#include "backend/cuda/ptx.cuh"
#include "backend/stages.h"

namespace gptoss::cuda {

// A head's key, or value, at one position: [head_dim].
__device__ __forceinline__ std::byte* kv_address(const KvView& view, const KvLayer& layer,
                                                 int position, int head, int kv_heads, int head_dim,
                                                 bool value) {
    const int slot = position % layer.slots;
    std::byte* const base = layer.window ? view.ring : view.pages[position / layer.slots];
    const size_t element = layer.type == DType::kF16 ? 2 : 4;
    const int heads_before = (value ? kv_heads : 0) + head;
    return base + layer.offset + (size_t(heads_before) * layer.slots + slot) * head_dim * element;
}

// Rounds as to_f16 (dtype.h) does: a finite value stays finite.
__device__ __forceinline__ uint16_t finite_f16(float x) {
    constexpr float kLargest = 65504.0f;
    const bool finite = fabsf(x) <= 3.402823466e38f;
    const float kept = finite ? fminf(fmaxf(x, -kLargest), kLargest) : x;
    return static_cast<uint16_t>(pack_f16(kept, 0.0f));
}

// Element d of the key or value at `at`.
__device__ __forceinline__ void store_kv(std::byte* at, DType type, int d, float x) {
    if (type == DType::kF16)
        reinterpret_cast<uint16_t*>(at)[d] = finite_f16(x);
    else
        reinterpret_cast<float*>(at)[d] = x;
}

}  // namespace gptoss::cuda

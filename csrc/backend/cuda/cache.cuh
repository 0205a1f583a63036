// Elements of keys and values as they are kept (kv_slot.h says where; a tile is one position here).
#pragma once

#include "backend/cuda/ptx.cuh"
#include "backend/stages.h"

namespace gptoss::cuda {

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

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
    else if (type == DType::kFp8)
        reinterpret_cast<uint8_t*>(at)[d] = to_fp8(x).bits;
    else
        reinterpret_cast<float*>(at)[d] = x;
}

// Four fp8 as two pairs of float16, exactly. Where no instruction does it: a byte's bits one place
// further down are the float16 of a 256th of its value, subnormal or not; a NaN's carry into the
// top bit of the exponent, which is free, makes it one.
__device__ __forceinline__ uint2 widen_fp8(uint32_t four) {
#if __CUDA_ARCH__ >= 890
    return unpack_fp8(four);
#else
    const auto pair = [](uint32_t upper) {
        const uint32_t half = upper - (upper >> 1 & 0x3f803f80u);
        const uint32_t kept = half | ((half + 0x00800080u) & 0x40004000u);
        return multiply_f16(kept, 0x5c005c00u);
    };
    return make_uint2(pair(__byte_perm(four, 0, 0x1404)), pair(__byte_perm(four, 0, 0x3424)));
#endif
}

}  // namespace gptoss::cuda

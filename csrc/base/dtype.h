// Number formats of tensors, and bfloat16 as a type.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace gptoss {

enum class DType : uint8_t { kU8, kBf16, kF32 };

inline size_t dtype_bytes(DType type) {
    return type == DType::kU8 ? 1 : type == DType::kBf16 ? 2 : 4;
}

// The name safetensors gives the type.
inline std::string_view dtype_name(DType type) {
    return type == DType::kU8 ? "U8" : type == DType::kBf16 ? "BF16" : "F32";
}

struct bf16 {
    uint16_t bits;
};

inline float to_float(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Rounds to nearest, ties to even; a NaN stays a NaN.
inline bf16 to_bf16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
    return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

}  // namespace gptoss

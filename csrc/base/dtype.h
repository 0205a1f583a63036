// Number formats of tensors, and bfloat16 as a type.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace gptoss {

enum class DType : uint8_t { kU8, kBf16, kF16, kF32 };

constexpr size_t dtype_bytes(DType type) {
    switch (type) {
        case DType::kU8: return 1;
        case DType::kF32: return 4;
        default: return 2;
    }
}

// The name safetensors gives the type.
inline std::string_view dtype_name(DType type) {
    switch (type) {
        case DType::kU8: return "U8";
        case DType::kBf16: return "BF16";
        case DType::kF16: return "F16";
        default: return "F32";
    }
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

// IEEE binary16: three bits more precise than bfloat16, up to 65504.
struct f16 {
    uint16_t bits;
};

inline float to_float(f16 x) {
    const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
    const uint32_t exponent = magnitude & 0x0f800000u;
    // Rebiased; infinity and NaN twice; a subnormal by way of subtracting the implied one.
    float out = std::bit_cast<float>(magnitude + 0x38000000u);
    if (exponent == 0x0f800000u) out = std::bit_cast<float>(magnitude + 0x70000000u);
    if (exponent == 0) out = std::bit_cast<float>(magnitude + 0x38800000u) - 0x1p-14f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(out) | sign);
}

// Rounds to nearest, ties to even; a finite value stays finite, a NaN a NaN.
inline f16 to_f16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), sign = u >> 16 & 0x8000u;
    const uint32_t magnitude = u & 0x7fffffffu;
    uint32_t out;
    if (magnitude > 0x7f800000u) {
        out = 0x7e00u;
    } else if (magnitude == 0x7f800000u) {
        out = 0x7c00u;
    } else if (magnitude >= 0x477fe000u) {
        out = 0x7bffu;
    } else if (magnitude >= 0x38800000u) {
        out = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    } else {
        // Adding a half leaves the subnormal's bits, rounded, at the bottom.
        out = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    }
    return {static_cast<uint16_t>(out | sign)};
}

}  // namespace gptoss

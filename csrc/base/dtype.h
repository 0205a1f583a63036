// Number formats of tensors and caches, and those as types that C++ lacks.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "base/error.h"

namespace gptoss {

enum class DType : uint8_t { kU8, kBf16, kF16, kF32, kFp8 };

constexpr size_t dtype_bytes(DType type) {
    switch (type) {
        case DType::kU8:
        case DType::kFp8: return 1;
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
        case DType::kFp8: return "F8_E4M3";
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

// OCP FP8 E4M3: four significant bits from 2**-6 to 448, no infinity; 0x7f and 0xff are NaN.
struct fp8 {
    uint8_t bits;
};

constexpr float to_float(fp8 x) {
    const uint32_t magnitude = (x.bits & 0x7fu) << 20, sign = (x.bits & 0x80u) << 24;
    float out = std::bit_cast<float>(magnitude + 0x3c000000u);
    if (magnitude == 0x07f00000u) out = std::bit_cast<float>(0x7fc00000u);
    if (magnitude < 0x00800000u) out = std::bit_cast<float>(magnitude + 0x3c800000u) - 0x1p-6f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(out) | sign);
}

// Rounds to nearest, ties to even; a finite value stays finite, any other becomes a NaN.
constexpr fp8 to_fp8(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), sign = u >> 24 & 0x80u;
    const uint32_t magnitude = u & 0x7fffffffu;
    uint32_t out = 0;
    if (magnitude >= 0x7f800000u) {
        out = 0x7fu;
    } else if (magnitude >= 0x43e00000u) {
        out = 0x7eu;
    } else if (magnitude >= 0x3c800000u) {
        out = (magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20;
    } else {
        // Adding 2**14 leaves the subnormal's bits, rounded, at the bottom.
        out = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - 0x46800000u;
    }
    return {static_cast<uint8_t>(out | sign)};
}

// x as an element of type T, and the other way.
template <class T>
T from_float(float x) {
    if constexpr (std::is_same_v<T, fp8>)
        return to_fp8(x);
    else if constexpr (std::is_same_v<T, f16>)
        return to_f16(x);
    else
        return x;
}
inline float to_float(float x) { return x; }

// Calls use(T{}) with the type of a cache's keys and values.
template <class Use>
decltype(auto) with_kv_type(DType type, Use use) {
    switch (type) {
        case DType::kFp8: return use(fp8{});
        case DType::kF16: return use(f16{});
        default: return use(float{});
    }
}

}  // namespace gptoss

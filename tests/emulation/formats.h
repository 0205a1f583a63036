// bfloat16 and binary16 as bits. Rounding is to nearest, ties to even; every NaN becomes 0x7fff.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace gptoss::emulation {

inline float decode_bf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

inline uint16_t encode_bf16(float x) {
    if (x != x) return 0x7fff;
    const uint32_t u = std::bit_cast<uint32_t>(x);
    return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

inline float decode_f16(uint16_t x) {
    const uint32_t sign = (x & 0x8000u) << 16, magnitude = x & 0x7fffu;
    float out;
    if (magnitude >= 0x7c00u) {
        out = std::bit_cast<float>(0x7f800000u | (magnitude & 0x3ffu) << 13);
    } else if (magnitude >= 0x400u) {
        out = std::bit_cast<float>((magnitude << 13) + (112u << 23));
    } else {
        out = static_cast<float>(magnitude) * 0x1p-24f;
    }
    return std::bit_cast<float>(std::bit_cast<uint32_t>(out) | sign);
}

inline uint16_t encode_f16(float x) {
    if (x != x) return 0x7fff;
    const uint32_t u = std::bit_cast<uint32_t>(x);
    const uint32_t sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    uint32_t out;
    if (magnitude >= 0x477ff000u) {  // 65520, half way between the greatest and the next
        out = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {
        out = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    } else {
        // In units of the least subnormal; the scaling is exact, nearbyint rounds.
        out = static_cast<uint32_t>(std::nearbyint(std::bit_cast<float>(magnitude) * 0x1p24f));
    }
    return static_cast<uint16_t>(sign | out);
}

// fma(a, b, -0): the product keeps its sign where it is zero.
inline uint16_t multiply_bf16(uint16_t a, uint16_t b) {
    const float x = decode_bf16(a), y = decode_bf16(b), product = x * y;
    // 16 bits of significand fit a float, so this product is exact unless it is subnormal.
    if (!(std::fabs(product) < 0x1p-126f)) return encode_bf16(product);
    const double exact = double{x} * y;
    const double units = std::nearbyint(std::fabs(exact) * 0x1p133);
    const uint16_t sign = std::signbit(exact) ? 0x8000 : 0;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(units));
}

}  // namespace gptoss::emulation

// Sixteen lanes as plain arrays, for machines without AVX2 and as the plainest form of each step.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace gptoss::cpu::scalar {

constexpr Isa kIsa = Isa::kScalar;
constexpr int kMaxRows = 4;
constexpr int kHeadGroup = 4;
constexpr int kTilesAtOnce = 1;

struct F32x16 {
    float v[16];
};
struct I32x16 {
    int32_t v[16];
};

template <class Out, class Lane>
inline Out lanes(Lane lane) {
    Out out;
    for (int i = 0; i < 16; ++i) out.v[i] = lane(i);
    return out;
}

inline F32x16 splat(float x) {
    return lanes<F32x16>([&](int) { return x; });
}
inline F32x16 load(const float* p) {
    return lanes<F32x16>([&](int i) { return p[i]; });
}
inline void store(float* p, const F32x16& x) { std::memcpy(p, x.v, sizeof x.v); }
inline F32x16 operator+(const F32x16& a, const F32x16& b) {
    return lanes<F32x16>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32x16 operator-(const F32x16& a, const F32x16& b) {
    return lanes<F32x16>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32x16 operator*(const F32x16& a, const F32x16& b) {
    return lanes<F32x16>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32x16 operator/(const F32x16& a, const F32x16& b) {
    return lanes<F32x16>([&](int i) { return a.v[i] / b.v[i]; });
}
// Rounded twice: a machine without fused multiply-add is what this set is for.
inline F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) {
    return lanes<F32x16>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F32x16 min(const F32x16& a, const F32x16& b) {
    return lanes<F32x16>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 max(const F32x16& a, const F32x16& b) {
    return lanes<F32x16>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 abs(const F32x16& a) {
    return lanes<F32x16>([&](int i) { return std::fabs(a.v[i]); });
}
// a where x < limit, else b
inline F32x16 where_less(const F32x16& x, const F32x16& limit, const F32x16& a, const F32x16& b) {
    return lanes<F32x16>([&](int i) { return x.v[i] < limit.v[i] ? a.v[i] : b.v[i]; });
}
// x in lanes [begin, end), fill elsewhere
inline F32x16 keep(const F32x16& x, int begin, int end, const F32x16& fill) {
    return lanes<F32x16>([&](int i) { return i >= begin && i < end ? x.v[i] : fill.v[i]; });
}
inline float sum(F32x16 a) {
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
    return a.v[0];
}
inline float max(F32x16 a) {
    for (int i = 1; i < 16; ++i) a.v[0] = a.v[0] > a.v[i] ? a.v[0] : a.v[i];
    return a.v[0];
}

inline F32x16 to_float(const I32x16& a) {
    return lanes<F32x16>([&](int i) { return static_cast<float>(a.v[i]); });
}
// A lane that no int32 holds gives the smallest, as the vector units do.
inline I32x16 round(const F32x16& a) {
    return lanes<I32x16>([&](int i) {
        return std::fabs(a.v[i]) < 2147483648.0f ? static_cast<int32_t>(std::nearbyintf(a.v[i]))
                                                 : INT32_MIN;
    });
}
// 2**n for n in [-126, 127]
inline F32x16 power_of_two(const I32x16& n) {
    F32x16 out;
    for (int i = 0; i < 16; ++i) {
        const uint32_t bits = static_cast<uint32_t>(n.v[i] + 127) << 23;
        std::memcpy(&out.v[i], &bits, 4);
    }
    return out;
}

inline I32x16 splat_int(int x) {
    return lanes<I32x16>([&](int) { return x; });
}
inline I32x16 load_int(const void* p) {
    I32x16 out;
    std::memcpy(out.v, p, sizeof out.v);
    return out;
}
inline I32x16 operator+(const I32x16& a, const I32x16& b) {
    return lanes<I32x16>([&](int i) { return a.v[i] + b.v[i]; });
}
inline I32x16 operator-(const I32x16& a, const I32x16& b) {
    return lanes<I32x16>([&](int i) { return a.v[i] - b.v[i]; });
}
inline I32x16 operator|(const I32x16& a, const I32x16& b) {
    return lanes<I32x16>([&](int i) { return a.v[i] | b.v[i]; });
}
inline I32x16 operator&(const I32x16& a, const I32x16& b) {
    return lanes<I32x16>([&](int i) { return a.v[i] & b.v[i]; });
}
inline I32x16 bits(const F32x16& a) {
    I32x16 out;
    std::memcpy(out.v, a.v, sizeof out.v);
    return out;
}
inline F32x16 from_bits(const I32x16& bits) {
    F32x16 out;
    std::memcpy(out.v, bits.v, sizeof out.v);
    return out;
}
inline void store_int(void* p, const I32x16& a) { std::memcpy(p, a.v, sizeof a.v); }
// The upper 16 bits of each lane.
inline void store_high_halves(void* p, const I32x16& a) {
    auto* half = static_cast<uint16_t*>(p);
    for (int i = 0; i < 16; ++i) half[i] = static_cast<uint16_t>(uint32_t(a.v[i]) >> 16);
}
// out[16 i + r] = lane i of line r
inline void transpose(const I32x16* line, uint32_t* out) {
    for (int r = 0; r < 16; ++r)
        for (int i = 0; i < 16; ++i) out[16 * i + r] = static_cast<uint32_t>(line[r].v[i]);
}
inline I32x16 shift_left(const I32x16& a, int n) {
    return lanes<I32x16>(
        [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << n); });
}
inline I32x16 shift_right(const I32x16& a, int n) {
    return lanes<I32x16>(
        [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> n); });
}
inline I32x16 shift_right_signed(const I32x16& a, int n) {
    return lanes<I32x16>([&](int i) { return a.v[i] >> n; });
}
inline I32x16 low_byte(const I32x16& a) {
    return lanes<I32x16>([&](int i) { return a.v[i] & 255; });
}
// a + 1 where a == x, else a
inline I32x16 increment_where(const I32x16& a, const I32x16& x) {
    return lanes<I32x16>([&](int i) { return a.v[i] + (a.v[i] == x.v[i]); });
}
inline int sum(const I32x16& a) {
    int total = 0;
    for (int i = 0; i < 16; ++i) total += a.v[i];
    return total;
}
inline void store_int8(int8_t* p, const I32x16& a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}

inline F32x16 load_bf16(const void* p) {
    uint16_t half[16];
    std::memcpy(half, p, sizeof half);
    return from_bits(
        lanes<I32x16>([&](int i) { return static_cast<int32_t>(uint32_t{half[i]} << 16); }));
}
inline F32x16 load_f16(const void* p) {
    const auto* halves = static_cast<const f16*>(p);
    return lanes<F32x16>([&](int i) { return to_float(halves[i]); });
}
constexpr int kFp8Vectors = 1;  // that load_fp8 gives
constexpr float kFp8Unit = 1;   // what they are to be multiplied by
inline void load_fp8(const void* p, F32x16* out) {
    const auto* bytes = static_cast<const fp8*>(p);
    *out = lanes<F32x16>([&](int i) { return to_float(bytes[i]); });
}
// 16 pairs: the first and the second of each.
inline void load_bf16_pairs(const void* p, F32x16& first, F32x16& second) {
    const I32x16 pairs = load_int(p);
    first = from_bits(shift_left(pairs, 16));
    second = from_bits(
        lanes<I32x16>([&](int i) { return pairs.v[i] & static_cast<int32_t>(0xffff0000); }));
}
// 2**(byte - 127); a zero byte is the denormal 2**-127
inline F32x16 load_e8m0(const void* p) {
    const auto* bytes = static_cast<const uint8_t*>(p);
    return from_bits(
        lanes<I32x16>([&](int i) { return bytes[i] ? int32_t{bytes[i]} << 23 : 0x00400000; }));
}
// The FP4 (e2m1) value of the low four bits of each lane.
inline F32x16 fp4(const I32x16& a) {
    constexpr float values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                  -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    return lanes<F32x16>([&](int i) { return values[a.v[i] & 15]; });
}

inline void prefetch_l1(const void*) {}
inline void prefetch_l2(const void*) {}

constexpr int kBlockParts = 1;  // a block is taken in
// 16 rows x 32 columns as bytes: [8][16 rows][4 columns].
struct ByteTile {
    int8_t v[8 * 16 * 4];
};
constexpr int kInt8Offset = 0;    // what the bytes carry above the weights' values
constexpr int kMxfp4Offset = 12;  // above twice the weights' values

inline ByteTile load_int8(const void* p) {
    const auto* bytes = static_cast<const uint8_t*>(p);
    ByteTile tile;
    for (int i = 0; i < 512; ++i) tile.v[i] = static_cast<int8_t>(bytes[i] ^ 128);
    return tile;
}
inline ByteTile load_mxfp4(const void* p) {
    constexpr int8_t table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
    const auto* bytes = static_cast<const uint8_t*>(p);
    ByteTile tile;
    for (int j = 0; j < 4; ++j) {
        for (int i = 0; i < 64; ++i) {
            tile.v[128 * j + i] = table[bytes[64 * j + i] & 15];
            tile.v[128 * j + 64 + i] = table[bytes[64 * j + i] >> 4];
        }
    }
    return tile;
}
// start + sum over the 32 columns of byte * x, exact.
inline I32x16 dot(const ByteTile& tile, const int8_t* x, I32x16 start) {
    for (int j = 0; j < 8; ++j)
        for (int lane = 0; lane < 16; ++lane)
            for (int column = 0; column < 4; ++column)
                start.v[lane] += tile.v[64 * j + 4 * lane + column] * x[4 * j + column];
    return start;
}
inline I32x16 dot_int8(const ByteTile& tile, const int8_t* x, const I32x16& start) {
    return dot(tile, x, start);
}

inline uint64_t read_256(const std::byte* p) {
    uint64_t words[32], all = 0;
    std::memcpy(words, p, sizeof words);
    for (uint64_t word : words) all |= word;
    return all;
}

}  // namespace gptoss::cpu::scalar

// Sixteen lanes in two AVX2 registers. Included by kernels_avx2.cpp alone.
#pragma once

#include <immintrin.h>

namespace gptoss::cpu::avx2 {

constexpr Isa kIsa = Isa::kAvx2;
constexpr int kMaxRows = 2;    // activation rows a product takes at once: accumulators fit
constexpr int kHeadGroup = 4;  // query heads that share a read of keys and values
constexpr int kTilesAtOnce = 1;

struct F32x16 {
    __m256 a, b;
};
struct I32x16 {
    __m256i a, b;
};

inline F32x16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline F32x16 operator+(F32x16 x, F32x16 y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F32x16 operator-(F32x16 x, F32x16 y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline F32x16 operator*(F32x16 x, F32x16 y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F32x16 operator/(F32x16 x, F32x16 y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32x16 min(F32x16 x, F32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F32x16 max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F32x16 abs(F32x16 x) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(x.a, magnitude), _mm256_and_ps(x.b, magnitude)};
}
// y where x < limit, else z
inline F32x16 where_less(F32x16 x, F32x16 limit, F32x16 y, F32x16 z) {
    return {_mm256_blendv_ps(z.a, y.a, _mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(z.b, y.b, _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ))};
}
// x in lanes [begin, end), fill elsewhere
inline F32x16 keep(F32x16 x, int begin, int end, F32x16 fill) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const auto half = [&](__m256 kept, __m256 other, int first) {
        const __m256i position = _mm256_add_epi32(lane, _mm256_set1_epi32(first));
        const __m256i inside =
            _mm256_and_si256(_mm256_cmpgt_epi32(position, _mm256_set1_epi32(begin - 1)),
                             _mm256_cmpgt_epi32(_mm256_set1_epi32(end), position));
        return _mm256_blendv_ps(other, kept, _mm256_castsi256_ps(inside));
    };
    return {half(x.a, fill.a, 0), half(x.b, fill.b, 8)};
}
inline float sum(F32x16 x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max(F32x16 x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline F32x16 to_float(I32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I32x16 round(F32x16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
// 2**n for n in [-126, 127]
inline F32x16 power_of_two(I32x16 n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.a, bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.b, bias), 23))};
}

inline I32x16 splat_int(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline __m256i load_256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline I32x16 load_int(const void* p) {
    return {load_256(p), load_256(static_cast<const char*>(p) + 32)};
}
inline I32x16 operator+(I32x16 x, I32x16 y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline I32x16 operator-(I32x16 x, I32x16 y) {
    return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
inline I32x16 operator|(I32x16 x, I32x16 y) {
    return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
inline I32x16 operator&(I32x16 x, I32x16 y) {
    return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
inline I32x16 bits(F32x16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline F32x16 from_bits(I32x16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline void store_int(void* p, I32x16 x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, x.b);
}
// The upper 16 bits of each lane.
inline void store_high_halves(void* p, I32x16 x) {
    uint32_t lane[16];
    store_int(lane, x);
    auto* half = static_cast<uint16_t*>(p);
    for (int i = 0; i < 16; ++i) half[i] = static_cast<uint16_t>(lane[i] >> 16);
}
// out[16 i + r] = lane i of line r
inline void transpose(const I32x16* line, uint32_t* out) {
    uint32_t lane[16];
    for (int r = 0; r < 16; ++r) {
        store_int(lane, line[r]);
        for (int i = 0; i < 16; ++i) out[16 * i + r] = lane[i];
    }
}
inline I32x16 shift_left(I32x16 x, int n) {
    return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
inline I32x16 shift_right(I32x16 x, int n) {
    return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
inline I32x16 shift_right_signed(I32x16 x, int n) {
    return {_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)};
}
inline I32x16 low_byte(I32x16 x) {
    const __m256i mask = _mm256_set1_epi32(255);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
// x + 1 where x == y, else x
inline I32x16 increment_where(I32x16 x, I32x16 y) {
    return {_mm256_sub_epi32(x.a, _mm256_cmpeq_epi32(x.a, y.a)),
            _mm256_sub_epi32(x.b, _mm256_cmpeq_epi32(x.b, y.b))};
}
inline int sum(I32x16 x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline void store_int8(int8_t* p, I32x16 x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline __m256 widen_bf16(const void* p) {
    const __m128i half = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline F32x16 load_bf16(const void* p) {
    return {widen_bf16(p), widen_bf16(static_cast<const char*>(p) + 16)};
}
inline F32x16 load_f16(const void* p) {
    const auto* halves = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
constexpr int kFp8Vectors = 1;   // that load_fp8 gives
constexpr float kFp8Unit = 256;  // what they are to be multiplied by
// A byte's bits one place further down are the float16 of a 256th of its value, subnormal or not,
// but for the exponent's top bit. That has the sign there, and so it has in the sum unless a NaN's
// carry reached it: their difference is what it must be.
inline void load_fp8(const void* p, F32x16* out) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
    const __m256i shifted = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
    const __m256i sum = _mm256_add_epi16(shifted, _mm256_set1_epi16(0x80));
    const __m256i top = _mm256_set1_epi16(0x4000);
    const __m256i halves = _mm256_xor_si256(shifted, _mm256_and_si256(sum, top));
    *out = {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}
// 16 pairs: the first and the second of each.
inline void load_bf16_pairs(const void* p, F32x16& first, F32x16& second) {
    const I32x16 pairs = load_int(p);
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000));
    first = {_mm256_castsi256_ps(_mm256_slli_epi32(pairs.a, 16)),
             _mm256_castsi256_ps(_mm256_slli_epi32(pairs.b, 16))};
    second = {_mm256_castsi256_ps(_mm256_and_si256(pairs.a, high)),
              _mm256_castsi256_ps(_mm256_and_si256(pairs.b, high))};
}
// 2**(byte - 127); a zero byte is the denormal 2**-127
inline F32x16 load_e8m0(const void* p) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
    const auto half = [](__m128i eight) {
        const __m256i e = _mm256_slli_epi32(_mm256_cvtepu8_epi32(eight), 23);
        return _mm256_castsi256_ps(_mm256_max_epu32(e, _mm256_set1_epi32(0x00400000)));
    };
    return {half(bytes), half(_mm_srli_si128(bytes, 8))};
}
// The FP4 (e2m1) value of the low four bits of each lane.
inline F32x16 fp4(I32x16 x) {
    const auto half = [](__m256i bits) {
        const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
        const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(8)), 28);
        return _mm256_or_ps(_mm256_permutevar8x32_ps(magnitudes, bits), _mm256_castsi256_ps(sign));
    };
    return {half(x.a), half(x.b)};
}

inline void prefetch_l1(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

// Four bytes, read where they lie so that the load itself does the broadcast.
using Word [[gnu::may_alias]] = int;

constexpr int kBlockParts = 2;  // a block is taken in: more would not stay in registers
// 16 rows x 16 columns as bytes: vectors 2 j and 2 j + 1 hold columns 4 j to 4 j + 3.
struct ByteTile {
    __m256i v[8];
};
// vpmaddubsw saturates on bytes above 127, so that int8 weights are taken signed here.
constexpr int kInt8Offset = 0;
constexpr int kMxfp4Offset = 12;  // what the bytes carry above twice the weights' values

inline ByteTile load_int8(const void* p) {
    const __m256i offset = _mm256_set1_epi8(static_cast<char>(128));
    ByteTile tile;
    for (int j = 0; j < 8; ++j)
        tile.v[j] = _mm256_xor_si256(load_256(static_cast<const char*>(p) + 32 * j), offset);
    return tile;
}
inline ByteTile load_mxfp4(const void* p) {
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m256i nibble = _mm256_set1_epi8(15);
    ByteTile tile;
    for (int j = 0; j < 2; ++j) {
        for (int half = 0; half < 2; ++half) {
            const __m256i bytes = load_256(static_cast<const char*>(p) + 64 * j + 32 * half);
            tile.v[4 * j + half] = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, nibble));
            tile.v[4 * j + 2 + half] =
                _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble));
        }
    }
    return tile;
}
inline __m256i add_pairs(__m256i sum, __m256i pairs) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// start + sum over the 16 columns of byte * x, exact: four pairs are added as 16 bits, since
// widening them takes a multiplier.
static_assert(4 * 2 * (2 * kMxfp4Offset) * 127 <= 32767);
inline I32x16 dot(const ByteTile& tile, const int8_t* x, I32x16 start) {
    const auto* words = reinterpret_cast<const Word*>(x);
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int j = 0; j < 4; ++j) {
        const __m256i w = _mm256_set1_epi32(words[j]);
        a = _mm256_add_epi16(a, _mm256_maddubs_epi16(tile.v[2 * j], w));
        b = _mm256_add_epi16(b, _mm256_maddubs_epi16(tile.v[2 * j + 1], w));
    }
    return {add_pairs(start.a, a), add_pairs(start.b, b)};
}
// The same for signed bytes; a pair is at most 2 * 127 * 127, for no x is -128.
inline I32x16 dot_int8(const ByteTile& tile, const int8_t* x, I32x16 start) {
    const auto* words = reinterpret_cast<const Word*>(x);
    const auto pairs = [](__m256i bytes, __m256i w) {
        return _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(w, bytes));
    };
    for (int j = 0; j < 4; ++j) {
        const __m256i w = _mm256_set1_epi32(words[j]);
        start.a = add_pairs(start.a, pairs(tile.v[2 * j], w));
        start.b = add_pairs(start.b, pairs(tile.v[2 * j + 1], w));
    }
    return start;
}

// For wide_product.inl. Rows and panels of a product at once: twelve registers of sums.
constexpr int kWideRows = 6, kWidePanels = 1;
constexpr bool kWideHeld = false;  // whether there is room for the sums of floats, too

// Half an e8m0 scale, and x times it.
inline F32x16 load_half_e8m0(const void* p) { return load_e8m0(p) * splat(0.5f); }
inline F32x16 scale_by_e8m0(F32x16 x, F32x16 half) { return x * half; }

// sum + both products of the 16-bit integers of each lane
inline I32x16 dot_pairs(I32x16 x, I32x16 y, I32x16 sum) {
    sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(x.a, y.a));
    sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(x.b, y.b));
    // GCC 12 would add the next pair's products to these first, and keep sums in memory for want of
    // registers: 220 instead of 270 GFLOP/s.
    asm("" : "+x"(sum.a), "+x"(sum.b));
    return sum;
}
// Pairs of columns of 16 rows' words as 16-bit integers: of int8, the even bytes or the odd ones.
inline __m256i signed_bytes(__m256i x, bool odd) {
    return _mm256_srai_epi16(odd ? x : _mm256_slli_epi16(x, 8), 8);
}
inline I32x16 int8_pair(I32x16 line, int n) {
    const __m256i offset = _mm256_set1_epi8(static_cast<char>(128));
    return {signed_bytes(_mm256_xor_si256(line.a, offset), n),
            signed_bytes(_mm256_xor_si256(line.b, offset), n)};
}
// Of MXFP4, twice the values of nibbles n and n + 4.
inline I32x16 mxfp4_pair(I32x16 line, int n) {
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    const auto half = [&](__m256i x) {
        const __m256i nibbles =
            _mm256_and_si256(n % 2 ? _mm256_srli_epi16(x, 4) : x, _mm256_set1_epi8(15));
        return signed_bytes(_mm256_shuffle_epi8(table, nibbles), n >= 2);
    };
    return {half(line.a), half(line.b)};
}
// 32 integers as 16 bits, in the order of kMxfp4Order.
inline void store_mxfp4_order(void* p, const I32x16* x) {
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    for (int i = 0; i < 2; ++i) {
        const __m256i a = _mm256_permutevar8x32_epi32(x[i].a, order);
        const __m256i b = _mm256_permutevar8x32_epi32(x[i].b, order);
        _mm256_storeu_si256(static_cast<__m256i*>(p) + i,
                            _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
    }
}

inline uint64_t read_256(const std::byte* p) {
    __m256i all = load_256(p);
    for (int i = 1; i < 8; ++i) all = _mm256_or_si256(all, load_256(p + 32 * i));
    return static_cast<uint64_t>(_mm256_extract_epi64(all, 0));
}

}  // namespace gptoss::cpu::avx2

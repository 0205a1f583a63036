// Sixteen lanes in AVX-512 registers. Included by the translation units of sets that have them,
// each in a namespace of its own: GPTOSS_VEC_NAMESPACE.
#pragma once

#include <immintrin.h>

namespace gptoss::cpu::GPTOSS_VEC_NAMESPACE {

constexpr Isa kIsa = Isa::kAvx512;
constexpr int kMaxRows = 8;      // activation rows a product takes at once: accumulators fit
constexpr int kHeadGroup = 8;    // query heads that share a read of keys and values
constexpr int kTilesAtOnce = 2;  // tiles of keys that share a read of queries

struct F32x16 {
    __m512 v;
};
struct I32x16 {
    __m512i v;
};

inline F32x16 splat(float x) { return {_mm512_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 x) { _mm512_storeu_ps(p, x.v); }
inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
// a where x < limit, else b
inline F32x16 where_less(F32x16 x, F32x16 limit, F32x16 a, F32x16 b) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), b.v, a.v)};
}
// x in lanes [begin, end), fill elsewhere
inline F32x16 keep(F32x16 x, int begin, int end, F32x16 fill) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 inside = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin)) &
                             _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
    return {_mm512_mask_blend_ps(inside, fill.v, x.v)};
}
inline float sum(F32x16 a) { return _mm512_reduce_add_ps(a.v); }
inline float max(F32x16 a) { return _mm512_reduce_max_ps(a.v); }

inline F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32x16 round(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
// 2**n for n in [-126, 127]
inline F32x16 power_of_two(I32x16 n) {
    return {
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}

inline I32x16 splat_int(int x) { return {_mm512_set1_epi32(x)}; }
inline I32x16 load_int(const void* p) { return {_mm512_loadu_si512(p)}; }
inline I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32x16 operator-(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I32x16 operator|(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline I32x16 operator&(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I32x16 bits(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
inline F32x16 from_bits(I32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
inline void store_int(void* p, I32x16 a) { _mm512_storeu_si512(p, a.v); }
// The upper 16 bits of each lane.
inline void store_high_halves(void* p, I32x16 a) {
    _mm256_storeu_si256(static_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(a.v, 16)));
}
// out[16 i + r] = lane i of line r
inline void transpose(const I32x16* line, uint32_t* out) {
    __m512i a[16], b[16];
    // Pairs of lines, then fours, within each 128-bit quarter; then the quarters.
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(line[i].v, line[i + 1].v);
        a[i + 1] = _mm512_unpackhi_epi32(line[i].v, line[i + 1].v);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512i even_low = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88);
        const __m512i odd_low = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
        const __m512i even_high = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
        const __m512i odd_high = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
        const auto put = [&](int word, __m512i v) { _mm512_storeu_si512(out + 16 * word, v); };
        put(i, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
        put(8 + i, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
        put(4 + i, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
        put(12 + i, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
    }
}
inline I32x16 shift_left(I32x16 a, int n) { return {_mm512_slli_epi32(a.v, n)}; }
inline I32x16 shift_right(I32x16 a, int n) { return {_mm512_srli_epi32(a.v, n)}; }
inline I32x16 shift_right_signed(I32x16 a, int n) { return {_mm512_srai_epi32(a.v, n)}; }
inline I32x16 low_byte(I32x16 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi32(255))}; }
// a + 1 where a == x, else a
inline I32x16 increment_where(I32x16 a, I32x16 x) {
    return {
        _mm512_mask_add_epi32(a.v, _mm512_cmpeq_epi32_mask(a.v, x.v), a.v, _mm512_set1_epi32(1))};
}
inline int sum(I32x16 a) { return _mm512_reduce_add_epi32(a.v); }
inline void store_int8(int8_t* p, I32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

inline F32x16 load_bf16(const void* p) {
    const __m256i half = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline F32x16 load_f16(const void* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
constexpr int kFp8Vectors = 2;   // that load_fp8 gives
constexpr float kFp8Unit = 256;  // what they are to be multiplied by
// A byte's bits one place further down are the float16 of a 256th of its value, subnormal or not,
// but for the exponent's top bit. That has the sign there, and so it has in the sum unless a NaN's
// carry reached it: their difference is what it must be.
inline void widen_fp8(__m256i bytes, F32x16* out) {
    const __m512i shifted = _mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7);
    const __m512i sum = _mm512_add_epi16(shifted, _mm512_set1_epi16(0x80));
    // shifted ^ (sum & 0x4000)
    const __m512i halves = _mm512_ternarylogic_epi32(shifted, sum, _mm512_set1_epi16(0x4000), 0x78);
    out[0] = {_mm512_cvtph_ps(_mm512_castsi512_si256(halves))};
    out[1] = {_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))};
}
inline void load_fp8(const void* p, F32x16* out) {
    widen_fp8(_mm256_loadu_si256(static_cast<const __m256i*>(p)), out);
}
// 16 pairs: the first and the second of each.
inline void load_bf16_pairs(const void* p, F32x16& first, F32x16& second) {
    const __m512i pairs = _mm512_loadu_si512(p);
    first.v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    second.v = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
}
// 2**(byte - 127); a zero byte is the denormal 2**-127
inline F32x16 load_e8m0(const void* p) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {_mm512_castsi512_ps(
        _mm512_max_epu32(_mm512_slli_epi32(e, 23), _mm512_set1_epi32(0x00400000)))};
}
// The FP4 (e2m1) value of the low four bits of each lane.
inline F32x16 fp4(I32x16 a) {
    const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f,
                                         -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    return {_mm512_permutexvar_ps(a.v, values)};
}

inline void prefetch_l1(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

constexpr int kBlockParts = 1;  // a block is taken in
// 16 rows x 32 columns as unsigned bytes: vector j holds columns 4 j to 4 j + 3 of each row.
struct ByteTile {
    __m512i v[8];
};
constexpr int kInt8Offset = 128;  // what the bytes carry above the weights' values
constexpr int kMxfp4Offset = 12;  // above twice the weights' values

inline ByteTile load_int8(const void* p) {
    ByteTile tile;
    for (int j = 0; j < 8; ++j)
        tile.v[j] = _mm512_loadu_si512(static_cast<const char*>(p) + 64 * j);
    return tile;
}
inline ByteTile load_mxfp4(const void* p) {
    // Four copies of the table: vpermb reads six bits, so that the upper nibble needs no masking.
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    ByteTile tile;
    for (int j = 0; j < 4; ++j) {
        const __m512i bytes = _mm512_loadu_si512(static_cast<const char*>(p) + 64 * j);
        tile.v[2 * j] = _mm512_permutexvar_epi8(bytes, table);
        tile.v[2 * j + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(bytes, 4), table);
    }
    return tile;
}
// Four bytes, read where they lie so that the load itself does the broadcast: by way of a general
// register it would take the port that the dot products need.
using Word [[gnu::may_alias]] = int;

// start + sum over the 32 columns of byte * x, exact.
inline I32x16 dot(const ByteTile& tile, const int8_t* x, I32x16 start) {
    const auto* words = reinterpret_cast<const Word*>(x);
    for (int j = 0; j < 8; ++j)
        start.v = _mm512_dpbusd_epi32(start.v, tile.v[j], _mm512_set1_epi32(words[j]));
    return start;
}
inline I32x16 dot_int8(const ByteTile& tile, const int8_t* x, I32x16 start) {
    return dot(tile, x, start);
}

// For wide_product.inl. Rows and panels of a product at once: their sums stay in registers, of
// more rows they would be loaded and stored while the multipliers wait.
constexpr int kWideRows = 5, kWidePanels = 2;
constexpr bool kWideHeld = true;  // so do the sums of floats

// Half an e8m0 scale, as its exponent, and x times it. Among 16 dot_pairs, a conversion and an fma
// this costs Zen 4 no cycle (17.1 in all), where a multiplication costs one (18.1).
inline F32x16 load_half_e8m0(const void* p) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(e, _mm512_set1_epi32(128)))};
}
inline F32x16 scale_by_e8m0(F32x16 x, F32x16 power) { return {_mm512_scalef_ps(x.v, power.v)}; }

// sum + both products of the 16-bit integers of each lane
inline I32x16 dot_pairs(I32x16 a, I32x16 b, I32x16 sum) {
    return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
}
// Pairs of columns of 16 rows' words as 16-bit integers: of int8, the even bytes or the odd ones.
inline I32x16 int8_pair(I32x16 line, int n) {
    const __m512i bytes = _mm512_xor_si512(line.v, _mm512_set1_epi8(char(0x80)));
    return {_mm512_srai_epi16(n ? bytes : _mm512_slli_epi16(bytes, 8), 8)};
}
// Of MXFP4, twice the values of nibbles n and n + 4.
inline I32x16 mxfp4_pair(I32x16 line, int n) {
    // Twice: vpermw reads five bits, the fifth of the next value.
    const __m512i table = _mm512_broadcast_i64x4(
        _mm256_setr_epi16(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    return {_mm512_permutexvar_epi16(_mm512_srli_epi16(line.v, 4 * n), table)};
}
// 32 integers as 16 bits, in the order of kMxfp4Order.
inline void store_mxfp4_order(void* p, const I32x16* x) {
    const __m512i order =
        _mm512_set_epi16(31, 29, 27, 25, 30, 28, 26, 24, 23, 21, 19, 17, 22, 20, 18, 16, 15, 13, 11,
                         9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0);
    const __m512i plain = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(x[0].v)),
                                             _mm512_cvtepi32_epi16(x[1].v), 1);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, plain));
}

inline uint64_t read_256(const std::byte* p) {
    const __m512i a = _mm512_or_si512(_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64));
    const __m512i b = _mm512_or_si512(_mm512_loadu_si512(p + 128), _mm512_loadu_si512(p + 192));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(_mm512_or_si512(a, b))));
}

}  // namespace gptoss::cpu::GPTOSS_VEC_NAMESPACE

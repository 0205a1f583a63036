// Each instruction of the tile unit, wrapped once. Included by kernels_amx.cpp alone.
//
// Built with GPTOSS_EMULATE_AMX they are computed with AVX-512 instead, to the same bits (the
// manual's order of operations), for tests on machines without the unit.
//
// GCC 12's own intrinsics do not tell the compiler what memory they read: stores before them may be
// dropped or moved past them. These do.
#pragma once

#include <immintrin.h>

namespace gptoss::cpu::amx {

// Palette 1: eight tiles of 16 rows of 64 bytes.
struct TileConfiguration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);

#ifndef GPTOSS_EMULATE_AMX

inline void configure_tiles(const TileConfiguration& c) { asm volatile("ldtilecfg %0" : : "m"(c)); }
inline void release_tiles() { asm volatile("tilerelease"); }

template <int T>
inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
// 16 rows of 64 bytes, `stride` bytes apart.
template <int T>
inline void tile_load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
                 :
                 : "r"(p), "r"(stride), "i"(T), "m"(*static_cast<const char (*)[]>(p)));
}
// The same of what will not be asked for again soon: it does not drive others out of the first
// cache.
template <int T>
inline void tile_load_once(const void* p, int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2"
                 :
                 : "r"(p), "r"(stride), "i"(T), "m"(*static_cast<const char (*)[]>(p)));
}
template <int T>
inline void tile_store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
// C[row][n] += sum over 16 pairs of A[row][pair] B[pair][n]
template <int C, int A, int B>
inline void tile_multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#else

struct EmulatedTile {
    alignas(64) char row[16][64];
};
inline thread_local EmulatedTile emulated[8];

inline void configure_tiles(const TileConfiguration&) {}
// What a thread leaves in its tiles is gone: NaN.
inline void release_tiles() { __builtin_memset(emulated, 0xff, sizeof(emulated)); }

template <int T>
inline void tile_zero() {
    __builtin_memset(&emulated[T], 0, sizeof(EmulatedTile));
}
template <int T>
inline void tile_load(const void* p, int64_t stride) {
    for (int r = 0; r < 16; ++r)
        __builtin_memcpy(emulated[T].row[r], static_cast<const char*>(p) + r * stride, 64);
}
template <int T>
inline void tile_load_once(const void* p, int64_t stride) {
    tile_load<T>(p, stride);
}
template <int T>
inline void tile_store(void* p, int64_t stride) {
    for (int r = 0; r < 16; ++r)
        __builtin_memcpy(static_cast<char*>(p) + r * stride, emulated[T].row[r], 64);
}
// Denormal numbers are zeros to it, in and out, whatever the thread's own mode.
inline __m512 flushed(__m512 x) {
    return _mm512_maskz_mov_ps(_mm512_fpclass_ps_mask(x, 0x20) ^ 0xffff, x);
}
template <int C, int A, int B>
inline void tile_multiply() {
    for (int r = 0; r < 16; ++r) {
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (int k = 0; k < 16; ++k) {
            int pair;
            __builtin_memcpy(&pair, emulated[A].row[r] + 4 * k, 4);
            const __m512i high = _mm512_set1_epi32(0xffff0000);
            const __m512i a = _mm512_set1_epi32(pair), b = _mm512_load_si512(emulated[B].row[k]);
            const auto first = [](__m512i x) {
                return flushed(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)));
            };
            const auto second = [&](__m512i x) {
                return flushed(_mm512_castsi512_ps(_mm512_and_si512(x, high)));
            };
            even = flushed(_mm512_fmadd_ps(first(a), first(b), even));
            odd = flushed(_mm512_fmadd_ps(second(a), second(b), odd));
        }
        const __m512 c = flushed(_mm512_load_ps(emulated[C].row[r]));
        _mm512_store_ps(emulated[C].row[r], flushed(c + flushed(even + odd)));
    }
}

#endif

}  // namespace gptoss::cpu::amx

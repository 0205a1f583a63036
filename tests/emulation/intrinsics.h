// CUDA's functions of one thread: bits, correctly rounded and approximate arithmetic, loads.
#pragma once

#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <type_traits>

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}

inline unsigned __brev(unsigned x) {
    unsigned out = 0;
    for (int i = 0; i < 32; ++i) out |= (x >> i & 1u) << (31 - i);
    return out;
}

// Byte i of the result is byte (selector >> 4 i) & 7 of y:x; with bit 3 set, its sign eight times.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = uint64_t{y} << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned choice = selector >> 4 * i & 0xf;
        unsigned byte = static_cast<unsigned>(bytes >> 8 * (choice & 7)) & 0xff;
        if (choice & 8) byte = byte & 0x80 ? 0xff : 0;
        out |= byte << 8 * i;
    }
    return out;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double x) { return 1.0 / x; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }

inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(std::floor(x)); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::nearbyint(x)); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }

inline float rsqrtf(float x) { return static_cast<float>(1.0 / std::sqrt(double{x})); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }

namespace gptoss::emulation {

// The C library declares these names for itself, so the CUDA ones are macros.
inline float fast_exp(float x) { return static_cast<float>(std::exp(double{x})); }
inline float fast_exp10(float x) { return static_cast<float>(std::pow(10.0, double{x})); }
inline float fast_log(float x) { return static_cast<float>(std::log(double{x})); }
inline float fast_log2(float x) { return static_cast<float>(std::log2(double{x})); }
inline float fast_pow(float x, float y) { return static_cast<float>(std::pow(double{x}, y)); }
inline float fast_sin(float x) { return static_cast<float>(std::sin(double{x})); }
inline float fast_cos(float x) { return static_cast<float>(std::cos(double{x})); }

}  // namespace gptoss::emulation

#define __expf(x) ::gptoss::emulation::fast_exp(x)
#define __exp10f(x) ::gptoss::emulation::fast_exp10(x)
#define __logf(x) ::gptoss::emulation::fast_log(x)
#define __log2f(x) ::gptoss::emulation::fast_log2(x)
#define __powf(x, y) ::gptoss::emulation::fast_pow(x, y)
#define __sinf(x) ::gptoss::emulation::fast_sin(x)
#define __cosf(x) ::gptoss::emulation::fast_cos(x)

// Of pi x, exact at multiples of a half: x is reduced before pi comes in.
inline void sincospi(double x, double* sine, double* cosine) {
    const double quarters = std::nearbyint(2 * x);
    const double rest = (x - quarters / 2) * 3.14159265358979323846;
    const double s = std::sin(rest), c = std::cos(rest);
    const int turn = std::isfinite(x) ? static_cast<int>(std::fmod(quarters, 4) + 4) & 3 : 0;
    *sine = turn == 0 ? s : turn == 1 ? c : turn == 2 ? -s : -c;
    *cosine = turn == 0 ? c : turn == 1 ? -s : turn == 2 ? -c : s;
}

inline void sincospif(float x, float* sine, float* cosine) {
    double s, c;
    sincospi(x, &s, &c);
    *sine = static_cast<float>(s);
    *cosine = static_cast<float>(c);
}

#define GPTOSS_MIN_MAX(A, B, type)                                                 \
    constexpr type min(A a, B b) {                                                 \
        return static_cast<type>(b) < static_cast<type>(a) ? static_cast<type>(b)  \
                                                           : static_cast<type>(a); \
    }                                                                              \
    constexpr type max(A a, B b) {                                                 \
        return static_cast<type>(a) < static_cast<type>(b) ? static_cast<type>(b)  \
                                                           : static_cast<type>(a); \
    }
GPTOSS_MIN_MAX(int, int, int)
GPTOSS_MIN_MAX(unsigned, unsigned, unsigned)
GPTOSS_MIN_MAX(int, unsigned, unsigned)
GPTOSS_MIN_MAX(unsigned, int, unsigned)
GPTOSS_MIN_MAX(long, long, long)
GPTOSS_MIN_MAX(unsigned long, unsigned long, unsigned long)
GPTOSS_MIN_MAX(long, unsigned long, unsigned long)
GPTOSS_MIN_MAX(unsigned long, long, unsigned long)
GPTOSS_MIN_MAX(long long, long long, long long)
GPTOSS_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef GPTOSS_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

template <class T>
T __ldg(const T* p) {
    return *p;
}
template <class T>
T __ldcg(const T* p) {
    return *p;
}
template <class T>
T __ldcs(const T* p) {
    return *p;
}
template <class T>
void __stcg(T* p, std::type_identity_t<T> value) {
    *p = value;
}
template <class T>
void __stcs(T* p, std::type_identity_t<T> value) {
    *p = value;
}

inline long long clock64() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

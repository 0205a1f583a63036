// Queries and weights of attention as sums of two float16 terms, scaled by powers of two so that
// both terms keep their precision.
#pragma once

#include "backend/cuda/activations.cuh"
#include "backend/cuda/attention.cuh"

namespace gptoss::cuda {

constexpr int kQueryExponent = 13;  // the greatest of a scaled query's parts is below 2^14
// Weights are at most this: float16's least normal number, half the precision of two terms away,
// is then far below what counts.
constexpr float kMostWeight = 0x1p15f;

// Two floats as the sum of two pairs of float16.
__device__ __forceinline__ void split_f16(float x, float y, uint32_t& high, uint32_t& low) {
    uint32_t terms[2];
    split_f16<2>(x, y, terms);
    high = terms[0];
    low = terms[1];
}

// The largest of a value over the four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
    return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// A power of two that brings the greatest of a query's parts to 2^13, and its inverse, by which
// products with the scaled query are to be multiplied. Both are normal numbers.
struct QueryScale {
    float scale, inverse;

    // `top`: this lane's greatest, of the four that share a row.
    __device__ __forceinline__ explicit QueryScale(float top) {
        int exponent = int(__float_as_uint(row_max(top)) >> 23);
        exponent = ::min(::max(exponent, kQueryExponent + 1), 253);
        scale = __uint_as_float(unsigned(254 + kQueryExponent - exponent) << 23);
        inverse = __uint_as_float(unsigned(exponent - kQueryExponent) << 23);
    }
};

}  // namespace gptoss::cuda

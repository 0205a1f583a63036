// Activations of a prefill step in the backend's own form: a row is [terms][columns] of bf16. Only
// kernels of the prefill form write and read it.
#pragma once

#include "backend/cuda/activations.cuh"
#include "backend/cuda/device.h"

namespace gptoss::cuda {

// How many terms a float is kept as, and which product takes the rows: prefill_warpgroup.cuh if
// `warpgroup`, else prefill_product.cuh. The former copies rows to shared memory as they are, so
// the 32 columns of a tile stand in the order in which the matrix unit counts them: a lane's eight
// weights, columns 8 t to 8 t + 7, are its columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of two
// products.
template <int kTerms, bool kWarpgroup>
struct PrefillForm {
    static constexpr int terms = kTerms;
    static constexpr bool warpgroup = kWarpgroup;

    __host__ __device__ static constexpr size_t row_bytes(int columns) {
        return size_t(columns) * terms * 2;
    }
    // Where column k stands; a pair of an even column and the next stays one.
    __host__ __device__ static constexpr int place(int k) {
        if (!warpgroup) return k;
        const int product = k / 4 % 2, half = k / 2 % 2, lane = k / 8 % 4;
        return k / 32 * 32 + 16 * product + 8 * half + 2 * lane + k % 2;
    }
    // The column that stands at place 8 chunk + 2 pair.
    __host__ __device__ static constexpr int column(int chunk, int pair) {
        if (!warpgroup) return 8 * chunk + 2 * pair;
        return chunk / 4 * 32 + 8 * pair + chunk % 4 * 2;
    }
};

// One term is closer to float32 than bf16 arithmetic throughout; exact keeps all of a float.
using ExactPrefill = PrefillForm<kExactTerms, false>;
using FastPrefill = PrefillForm<1, false>;
using WarpgroupPrefill = PrefillForm<1, true>;

// Calls use with the form of this device and precision.
template <class Use>
void with_prefill_form(const Device& device, Precision precision, Use use) {
    if (precision == Precision::kExact)
        use(ExactPrefill());
    else if (has_warpgroups(device))
        use(WarpgroupPrefill());
    else
        use(FastPrefill());
}

}  // namespace gptoss::cuda

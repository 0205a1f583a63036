// What the warps of moe_decode have of several panels before their sums meet.
#pragma once

#include "backend/cuda/decode_product.cuh"

namespace gptoss::cuda {

// The sums of as many of a unit's panels as fit, a float for each warp, weight row and column of
// the matrix unit that a term has: [panels][warps][16][columns].
template <int terms>
struct Round {
    float* sums;
    int rows;     // of the unit
    int columns;  // even, since a lane has two

    __device__ Round(float* shared, int unit_rows)
        : sums(shared), rows(unit_rows), columns((terms * unit_rows + 1) / 2 * 2) {}
    // Panels of a round at most. Their results are kTileSums or fewer, one for a thread.
    __device__ int panels() const { return 2 * kDecodeRows / columns; }
    __device__ float* at(int panel, int warp, int r) const {
        return sums + ((panel * kDecodeWarps + warp) * kTileRows + r) * columns;
    }
    __device__ __forceinline__ void put(int panel, const float (&own)[4]) const {
        const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, column = lane % 4 * 2;
        if (column >= columns) return;
        float* const low = at(panel, warp, lane / 4) + column;
        *reinterpret_cast<float2*>(low) = make_float2(own[0], own[1]);
        *reinterpret_cast<float2*>(low + kTileRows / 2 * columns) = make_float2(own[2], own[3]);
    }
    // Adds the terms' and the warps' sums of weight row r and activation row `row`, in the order of
    // join_warps.
    __device__ __forceinline__ float join(int panel, int r, int row) const {
        float sum = 0;
#pragma unroll
        for (int term = terms - 1; term >= 0; --term) {
            float part = 0;
#pragma unroll
            for (int w = 0; w < kDecodeWarps; ++w) part += at(panel, w, r)[term * rows + row];
            sum += part;
        }
        return sum;
    }
};
static_assert(2 * kDecodeRows * kDecodeWarps * kTileRows * sizeof(float) + kZeroBytes ==
              kDecodeSumBytes<1>);

}  // namespace gptoss::cuda

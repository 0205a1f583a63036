// One draw from the tokens left, whose weights are summed by chunk.
#pragma once

#include "backend/cuda/sample.cuh"

namespace gptoss::cuda::sampling {

// What the draw is over.
struct Left {
    Values v;
    Cut cut;
    double most_halvings;

    __device__ __forceinline__ Integer weight(int token, double z) const {
        const bool left = v.halvings(z) <= most_halvings && cut.holds(order_of(z), token);
        return left ? v.weight(z) : 0;
    }
};

// Compared before it is rounded to a weight. The best's equal is what weighs 1 in float64: within
// 2^-54 of it.
__device__ __forceinline__ double halvings_of(double min_p) {
    return 0x1p-54 * kLog2E - log2(min_p);
}

// In shared memory.
struct Drawn {
    Integer target;  // among the chunk's weights
    int chunk, token;
};

// The token at `unit` of all chunks' weights, by rising id; `best` if they were nothing.
__device__ __forceinline__ int draw(const Left& left, const Split& split,
                                    const Integer* chunk_weight, double unit, int best,
                                    Drawn& found) {
    if (threadIdx.x == 0) found = {0, 0, best};
    const bool exists = static_cast<int>(threadIdx.x) < split.chunks;
    const Integer mine = exists ? chunk_weight[threadIdx.x] : 0;
    const Prefix chunk = scan_block(mine);
    // floor(unit * total), exact: the unit is a multiple of 2^-53.
    const Integer target = __umul64hi(static_cast<Integer>(unit * 0x1p64), chunk.total);
    if (chunk.before <= target && target < chunk.before + mine)
        found = {target - chunk.before, static_cast<int>(threadIdx.x), 0};
    __syncthreads();
    Integer rest = found.target;
    for (int tile = found.chunk * split.chunk_tiles;; ++tile) {
        const int first = tile * kTile + threadIdx.x * kThreadTokens;
        Integer weights[kThreadTokens], own = 0;
#pragma unroll
        for (int i = 0; i < kThreadTokens; ++i) {
            const int token = first + i;
            weights[i] = token < split.vocab ? left.weight(token, left.v.at(token)) : 0;
            own += weights[i];
        }
        const Prefix prefix = scan_block(own);
        if (prefix.before <= rest && rest < prefix.before + own) {
            Integer held = prefix.before;
            int below = 0;
#pragma unroll
            for (int i = 0; i < kThreadTokens; ++i) below += (held += weights[i]) <= rest;
            found.token = first + below;
        }
        if (rest < prefix.total || (tile + 1) * kTile >= split.vocab) break;
        rest -= prefix.total;
    }
    __syncthreads();
    return found.token;
}

}  // namespace gptoss::cuda::sampling

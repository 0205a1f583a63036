// The pairs (token, slot) of a prefill step by expert, in their order, and the tiles of rows
// that share one. One block; a warp has a stretch of the pairs, counts them by expert, and once it
// is known how many stand in the stretches before, places them. Bound by latency.
#include "backend/cuda/prefill_product.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
static_assert(kWarps == kWarp);

struct Places {
    int count[kWarps][kMostExperts];  // of a warp's stretch, then of all stretches before it
    int pairs[kMostExperts];
    int begin[kMostExperts];  // of an expert's pairs
    int first_tile[kMostExperts];
};

// The sum of the lanes before.
__device__ __forceinline__ int sum_before(int value, int lane) {
    int sum = value;
    for (int offset = 1; offset < kWarp; offset *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, offset);
        if (lane >= offset) sum += other;
    }
    return sum - value;
}

// Calls use(pair, expert, rank) for each pair of a stretch; rank is how many of the expert's pairs
// stand before it since `count` was zero. `count` goes on.
template <class Use>
__device__ void rank_pairs(const int* expert, int begin, int end, int* count, int lane, Use use) {
#pragma unroll 1
    for (int first = begin; first < end; first += kWarp) {
        const int pair = first + lane;
        const int e = pair < end ? expert[pair] : -1 - lane;  // alone
        const unsigned same = __match_any_sync(0xffffffffu, e);
        const unsigned before = same & ((1u << lane) - 1);
        const int seen = pair < end ? count[e] : 0;
        __syncwarp();
        if (pair < end) {
            use(pair, e, seen + __popc(before));
            if (before == 0) count[e] = seen + __popc(same);
        }
        __syncwarp();
    }
}

// Where each expert's pairs and tiles begin, by one warp; the number of tiles.
__device__ int place_experts(Places& places, int experts, int tile_rows, int lane) {
    int pairs = 0, tiles = 0;
#pragma unroll 1
    for (int first = 0; first < experts; first += kWarp) {
        const int e = first + lane;
        const int own = e < experts ? places.pairs[e] : 0;
        const int own_tiles = (own + tile_rows - 1) / tile_rows;
        const int begin = pairs + sum_before(own, lane);
        const int tile = tiles + sum_before(own_tiles, lane);
        if (e < experts) {
            places.begin[e] = begin;
            places.first_tile[e] = tile;
        }
        pairs = __shfl_sync(0xffffffffu, begin + own, kWarp - 1);
        tiles = __shfl_sync(0xffffffffu, tile + own_tiles, kWarp - 1);
    }
    return tiles;
}

__global__ __launch_bounds__(kThreads) void sort_pairs_kernel(const int* expert, int pairs,
                                                              int experts, int tile_rows,
                                                              int* sorted, RowTile* tiles,
                                                              int* tile_count) {
    __shared__ Places places;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int stretch = (pairs + kThreads - 1) / kThreads * kWarp;
    const int begin = min(warp * stretch, pairs), end = min(begin + stretch, pairs);
    int* const count = places.count[warp];
#pragma unroll 1
    for (int e = lane; e < experts; e += kWarp) count[e] = 0;
    wait_for_earlier_kernels();
    let_next_kernel_start();
    __syncwarp();
    rank_pairs(expert, begin, end, count, lane, [](int, int, int) {});
    __syncthreads();
#pragma unroll 1
    for (int e = warp; e < experts; e += kWarps) {
        const int own = places.count[lane][e], before = sum_before(own, lane);
        places.count[lane][e] = before;
        if (lane == kWarp - 1) places.pairs[e] = before + own;
    }
    __syncthreads();
    if (warp == 0) {
        const int all = place_experts(places, experts, tile_rows, lane);
        if (lane == 0) *tile_count = all;
    }
    __syncthreads();
    rank_pairs(expert, begin, end, count, lane,
               [&](int pair, int e, int rank) { sorted[places.begin[e] + rank] = pair; });
#pragma unroll 1
    for (int e = warp; e < experts; e += kWarps) {
        const int own = places.pairs[e];
#pragma unroll 1
        for (int i = lane; i * tile_rows < own; i += kWarp)
            tiles[places.first_tile[e] + i] = {e, places.begin[e] + i * tile_rows,
                                               min(tile_rows, own - i * tile_rows)};
    }
}

}  // namespace

void sort_pairs(const Device& device, const int* expert, int pairs, int experts, int terms,
                const Scratch& scratch) {
    launch(device, sort_pairs_kernel, dim3(1), dim3(kThreads), 0, expert, pairs, experts,
           pair_tile_rows(terms), scratch.sorted, scratch.tiles, scratch.tile_count);
}

}  // namespace gptoss::cuda

// The pairs (token, slot) of a prefill step by expert, in their order, and the tiles of rows
// that share one. One block; a warp takes an expert at a time and finds its pairs by
// ballot. Bound by latency.
#include "backend/cuda/prefill_product.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kMostExperts = 128;

__global__ __launch_bounds__(kThreads) void sort_pairs_kernel(const int* expert, int pairs,
                                                              int experts, int tile_rows,
                                                              int* sorted, RowTile* tiles,
                                                              int* tile_count) {
    __shared__ int count[kMostExperts];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    wait_for_earlier_kernels();
    let_next_kernel_start();
    // Calls use(pair, rank) in the lanes that hold a pair of expert e; its count.
    const auto each = [&](int e, auto use) {
        int seen = 0;
        for (int first = 0; first < pairs; first += kWarp) {
            const int pair = first + lane;
            const bool mine = pair < pairs && expert[pair] == e;
            const unsigned lanes = __ballot_sync(0xffffffffu, mine);
            if (mine) use(pair, seen + __popc(lanes & ((1u << lane) - 1)));
            seen += __popc(lanes);
        }
        return seen;
    };
    for (int e = warp; e < experts; e += kThreads / kWarp) {
        const int seen = each(e, [](int, int) {});
        if (lane == 0) count[e] = seen;
    }
    __syncthreads();
    for (int e = warp; e < experts; e += kThreads / kWarp) {
        int begin = 0, tile = 0;
        for (int before = 0; before < e; ++before) {
            begin += count[before];
            tile += (count[before] + tile_rows - 1) / tile_rows;
        }
        each(e, [&](int pair, int rank) { sorted[begin + rank] = pair; });
        const int own_tiles = (count[e] + tile_rows - 1) / tile_rows;
        for (int i = lane; i < own_tiles; i += kWarp)
            tiles[tile + i] = {e, begin + i * tile_rows, min(tile_rows, count[e] - i * tile_rows)};
        if (e == experts - 1 && lane == 0) *tile_count = tile + own_tiles;
    }
}

}  // namespace

void sort_pairs(const Device& device, const int* expert, int pairs, int experts, int terms,
                const Scratch& scratch) {
    launch(device, sort_pairs_kernel, dim3(1), dim3(kThreads), 0, expert, pairs, experts,
           pair_tile_rows(terms), scratch.sorted, scratch.tiles, scratch.tile_count);
}

}  // namespace gptoss::cuda

// The decode form of a product: up to 8 activation rows, each weight read once.
//
// A block's eight warps share a panel of 16 weight rows and take its steps in turn, so that a block
// streams memory in order; every lane loads 16 bytes of weights at a time straight into the
// operand's place, several loads ahead. The warps' sums meet in shared memory in a fixed order.
// Bound by the memory that the weights come from.
#pragma once

#include "backend/cuda/activations.cuh"
#include "backend/cuda/tiles.cuh"

namespace gptoss::cuda {

constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

// Bytes of shared memory beside the activations: two sets of sums of all warps, in turn.
constexpr size_t kDecodeSumBytes = 2 * kDecodeWarps * kTileSums * sizeof(float);

// The loads of one warp that are under way: `kDepth` steps of the panel, kDecodeWarps apart.
template <class Tiles>
struct Flight {
    static constexpr int kDepth = 4;
    static constexpr int kStride = kDepth * kDecodeWarps;
    typename Tiles::Loaded step[kDepth];

    __device__ __forceinline__ void load(const Panel& panel, int first, int end, int lane) {
#pragma unroll
        for (int i = 0; i < kDepth; ++i)
            if (first + i * kDecodeWarps < end)
                step[i] = Tiles::load(panel, first + i * kDecodeWarps, lane);
    }
};

// sums += the loaded steps times the rows; `origin` is the step whose columns stand first in rows.
template <class Tiles, int terms>
__device__ __forceinline__ void accumulate(float (&sums)[4], const Flight<Tiles>& flight, int first,
                                           int end, int origin, const SharedRows<terms>& rows,
                                           int lane) {
    constexpr int kTiles = Tiles::kColumns / kTileColumns;
#pragma unroll
    for (int i = 0; i < Flight<Tiles>::kDepth; ++i) {
        const int step = first + i * kDecodeWarps;
        if (step >= end) break;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            uint32_t a[2][4];
            Tiles::fragment(flight.step[i], 2 * tile, a[0]);
            Tiles::fragment(flight.step[i], 2 * tile + 1, a[1]);
            multiply_terms<terms>(sums, a, [&](int term) {
                return rows.operand((step - origin) * kTiles + tile, term, lane);
            });
        }
    }
}

// Steps [begin, end) of a panel times the rows: this warp's share. `flight` holds the first loads,
// and at the end, if there are more panels to come, those of the same steps of `next`.
template <class Tiles, int terms>
__device__ __forceinline__ void multiply_panel(float (&sums)[4], Flight<Tiles>& flight,
                                               const Panel& panel, bool more, const Panel& next,
                                               int begin, int end, const SharedRows<terms>& rows,
                                               int warp, int lane) {
    for (int first = begin + warp; first < end; first += Flight<Tiles>::kStride) {
        Flight<Tiles> following;
        if (first + Flight<Tiles>::kStride < end)
            following.load(panel, first + Flight<Tiles>::kStride, end, lane);
        else if (more)
            following.load(next, begin + warp, end, lane);
        accumulate(sums, flight, first, end, begin, rows, lane);
        flight = following;
    }
}

// Adds the warps' sums in order. Threads below kTileSums get sum number threadIdx.x: that of lane
// threadIdx.x / 4, register threadIdx.x % 4. One barrier; `buffer` must not be that of the call
// before.
__device__ __forceinline__ float join_warps(const float (&sums)[4], float* buffer, int warp,
                                            int lane) {
    float* mine = buffer + warp * kTileSums + lane * 4;
    *reinterpret_cast<float4*>(mine) = make_float4(sums[0], sums[1], sums[2], sums[3]);
    __syncthreads();
    float sum = 0;
    if (threadIdx.x < kTileSums)
        for (int w = 0; w < kDecodeWarps; ++w) sum += buffer[w * kTileSums + threadIdx.x];
    return sum;
}

// Where sum number i of a panel belongs: rows r and r + 8 of a column come from threads i, i + 2.
struct SumPlace {
    int r, column;
    bool low;  // row r; else row r + 8
};

__device__ __forceinline__ SumPlace sum_place(int i) {
    const int lane = i / 4, part = i % 4;
    return {lane / 4, lane % 4 * 2 + part % 2, part < 2};
}

// The other way: where row r of a column stands among a panel's sums.
__device__ __forceinline__ int sum_index(int r, int column) {
    return (r % 8 * 4 + column / 2) * 4 + r / 8 * 2 + column % 2;
}

}  // namespace gptoss::cuda

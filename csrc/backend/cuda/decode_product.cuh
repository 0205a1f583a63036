// The decode form of a product: up to 8 activation rows, each weight read once.
//
// A block's eight warps share a panel of 16 weight rows and take its chunks, of 1 KiB of weights, in
// turn, so that a block streams memory in order. A warp's chunks come by asynchronous copies through
// a ring of its own in shared memory, across the ends of panels: what is under way does not wait for
// the activations, for barriers or for the sums of a panel. The warps' sums meet in shared memory in
// a fixed order. Bound by the memory that the weights come from.
#pragma once

#include "backend/cuda/activations.cuh"
#include "backend/cuda/tiles.cuh"

namespace gptoss::cuda {

constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

// Bytes of a block's weights under way. So many that one multiprocessor in flight is enough, and
// that the blocks of the kernel that follows fit beside, with theirs; fewer where shared memory is
// short.
constexpr int kDeepRing = 80 * 1024;
constexpr int kShallowRing = 27 * 1024;

// Bytes of shared memory for two sets of sums of all warps, in turn.
template <int terms>
constexpr size_t kDecodeSumBytes = 2 * kDecodeWarps * terms * kTileSums * sizeof(float);

// What a warp copies and multiplies at once: 1 KiB, two times 16 bytes a lane, and its scales.
template <class Tiles>
struct Chunk {
    static constexpr int kSteps = 1024 / Tiles::kStepBytes;
    static constexpr int kColumns = kSteps * Tiles::kColumns;
    static constexpr int kTiles = kColumns / kTileColumns;
    static constexpr int kScaleBytes = kSteps * Tiles::kStepScaleBytes;
    static constexpr int kBytes = 1024 + kScaleBytes;

    // Starts the copies. Where a panel ends within a chunk, the rest becomes zeros.
    static __device__ __forceinline__ void copy(std::byte* slot, const Panel& panel, int chunk,
                                                int steps, int lane) {
        const std::byte* data = panel.data + size_t(chunk) * 1024 + lane * 16;
        const bool whole = kSteps == 1 || chunk * kSteps + 1 < steps;
        copy_async_16(slot + lane * 16, data, true);
        copy_async_16(slot + lane * 16 + 512, whole ? data + 512 : data, whole);
        if constexpr (kScaleBytes > 0) {
            constexpr int kLanes = kScaleBytes / 16;
            const bool valid = whole || lane < kLanes / 2;
            const std::byte* scales = panel.scales + size_t(chunk) * kScaleBytes;
            if (lane < kLanes)
                copy_async_16(slot + 1024 + lane * 16, valid ? scales + lane * 16 : scales, valid);
        }
    }
};

// sums += a chunk of bf16 weights times the rows, whose tile `tile` is the chunk's first.
template <int terms>
__device__ __forceinline__ void multiply_chunk(float (&sums)[terms][4], const std::byte* slot,
                                               int tile, const SharedRows<terms>& rows, int lane,
                                               Chunk<Bf16Tiles>) {
    const uint4 first = *reinterpret_cast<const uint4*>(slot + lane * 16);
    const uint4 second = *reinterpret_cast<const uint4*>(slot + lane * 16 + 512);
    const uint32_t a[2][4] = {{first.x, first.y, first.z, first.w},
                              {second.x, second.y, second.z, second.w}};
#pragma unroll
    for (int g = 0; g < terms; ++g) {
        if (g >= rows.groups()) break;
        const uint4 b = rows.operand(tile, g, lane);
        if constexpr (terms <= kFastTerms) {
            mma_bf16(sums[g], a[0], b.x, b.y);
            mma_bf16(sums[g], a[1], b.z, b.w);
        } else {
            // The matrix unit rounds to zero each time it adds to a sum: exact precision promises
            // more than that leaves of a long one.
            float part[4] = {};
            mma_bf16(part, a[0], b.x, b.y);
            mma_bf16(part, a[1], b.z, b.w);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[g][i] += part[i];
        }
    }
}

// The same of MXFP4 weights and rows of f16 terms: a tile is 32 columns, as a scale is, so that the
// scale comes in once a sum.
template <int terms>
__device__ __forceinline__ void multiply_chunk(float (&sums)[terms][4], const std::byte* slot,
                                               int tile, const SharedRows<terms>& rows, int lane,
                                               Chunk<Mxfp4Tiles> chunk) {
#pragma unroll
    for (int step = 0; step < chunk.kSteps; ++step) {
        const uint4 words = *reinterpret_cast<const uint4*>(slot + step * 512 + lane * 16);
        const uint32_t scales = Mxfp4Tiles::small_scales(
            *reinterpret_cast<const uint32_t*>(slot + 1024 + step * 32 + lane / 4 * 4));
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            const uint32_t low = t ? words.z : words.x, high = t ? words.w : words.y;
            uint32_t a[2][4];
#pragma unroll
            for (int p = 0; p < 4; ++p) {
                a[p / 2][p % 2 * 2] = Mxfp4Tiles::small_pair(low, p);
                a[p / 2][p % 2 * 2 + 1] = Mxfp4Tiles::small_pair(high, p);
            }
            const float low_scale = Mxfp4Tiles::small_scale(scales, 2 * t);
            const float high_scale = Mxfp4Tiles::small_scale(scales, 2 * t + 1);
#pragma unroll
            for (int g = 0; g < terms; ++g) {
                if (g >= rows.groups()) break;
                const uint4 b = rows.operand(tile + 2 * step + t, g, lane);
                float part[4] = {};
                mma_f16(part, a[0], b.x, b.y);
                mma_f16(part, a[1], b.z, b.w);
                sums[g][0] = fmaf(low_scale, part[0], sums[g][0]);
                sums[g][1] = fmaf(low_scale, part[1], sums[g][1]);
                sums[g][2] = fmaf(high_scale, part[2], sums[g][2]);
                sums[g][3] = fmaf(high_scale, part[3], sums[g][3]);
            }
        }
    }
}

// A warp's way through chunks [begin, end) of the block's items, each a panel: its own are those
// numbered begin + warp, begin + warp + 8 and so on of each.
template <class Tiles, int ring_bytes>
struct WeightStream {
    using Piece = Chunk<Tiles>;
    static constexpr int kSlots = ring_bytes / kDecodeWarps / Piece::kBytes;
    static_assert(kSlots >= 2);

    std::byte* ring;  // this warp's
    int lane, warp, begin, end, steps;
    int last_item, stride;

    Panel panel = {};  // of the next chunk to be copied
    int item, chunk;
    int slot = 0;  // of the next chunk to be multiplied

    // Starts the first copies. panel_at(item) is a Panel, for items from `first` on to `last`.
    template <class PanelAt>
    __device__ __forceinline__ void start(std::byte* shared, int first, int last, int item_stride,
                                          const PanelAt& panel_at) {
        lane = threadIdx.x % kWarp;
        warp = threadIdx.x / kWarp;
        ring = shared + warp * (kSlots * Piece::kBytes);
        item = first;
        last_item = last;
        stride = item_stride;
        chunk = begin + warp;
        if (chunk >= end) item = last_item;  // nothing of any panel
        if (item < last_item) panel = panel_at(item);
#pragma unroll
        for (int i = 0; i < kSlots; ++i) copy(i, panel_at);
    }

    template <class PanelAt>
    __device__ __forceinline__ void copy(int to, const PanelAt& panel_at) {
        if (item < last_item) {
            Piece::copy(ring + to * Piece::kBytes, panel, chunk, steps, lane);
            chunk += kDecodeWarps;
            if (chunk >= end) {
                chunk = begin + warp;
                item += stride;
                if (item < last_item) panel = panel_at(item);
            }
        }
        copy_async_commit();
    }

    // sums += this warp's share of one item; the rows begin with chunk `begin`.
    template <int terms, class PanelAt>
    __device__ __forceinline__ void multiply(float (&sums)[terms][4],
                                             const SharedRows<terms>& rows,
                                             const PanelAt& panel_at) {
        for (int at = begin + warp; at < end; at += kDecodeWarps) {
            copy_async_wait<kSlots - 1>();
            if constexpr (Piece::kScaleBytes > 0) __syncwarp();  // scales come by other lanes
            multiply_chunk<terms>(sums, ring + slot * Piece::kBytes, (at - begin) * Piece::kTiles,
                                  rows, lane, Piece{});
            if constexpr (Piece::kScaleBytes > 0) __syncwarp();
            copy(slot, panel_at);
            slot = slot + 1 < kSlots ? slot + 1 : 0;
        }
    }
};

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

// Adds the terms' and the warps' sums in order. Threads below kTileSums get sum number threadIdx.x
// (sum_place), of the rows there are. One barrier; `buffer` must not be that of the call before.
template <int terms>
__device__ __forceinline__ float join_warps(const float (&sums)[terms][4], float* buffer,
                                            const SharedRows<terms>& rows) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
    for (int g = 0; g < terms; ++g) {
        if (g >= rows.groups()) break;
        float* mine = buffer + (g * kDecodeWarps + warp) * kTileSums + lane * 4;
        *reinterpret_cast<float4*>(mine) =
            make_float4(sums[g][0], sums[g][1], sums[g][2], sums[g][3]);
    }
    __syncthreads();
    const SumPlace at = sum_place(threadIdx.x);
    float sum = 0;
    if (threadIdx.x >= kTileSums || at.column >= rows.rows) return sum;
#pragma unroll
    for (int term = terms - 1; term >= 0; --term) {
        const int column = rows.column(term, at.column);
        const float* from = buffer + column / kDecodeRows * (kDecodeWarps * kTileSums) +
                            sum_index(at.low ? at.r : at.r + 8, column % kDecodeRows);
        float part = 0;
#pragma unroll
        for (int w = 0; w < kDecodeWarps; ++w) part += from[w * kTileSums];
        sum += part;
    }
    return sum;
}

}  // namespace gptoss::cuda

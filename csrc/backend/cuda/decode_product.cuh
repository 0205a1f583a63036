// The decode form of a product: up to 8 activation rows, each weight read once.
//
// A block's eight warps share a panel of 16 weight rows and take its chunks, of 1 KiB of weights,
// in turn, so that a block streams memory in order. A warp's chunks come by asynchronous copies
// through a ring of its own in shared memory, across the ends of panels: what is under way does not
// wait for the activations, for barriers or for the sums of a panel. The warps' sums meet in shared
// memory in a fixed order. Bound by the memory that the weights come from.
#pragma once

#include "backend/cuda/activations.cuh"
#include "backend/cuda/tiles.cuh"

namespace gptoss::cuda {

constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

// Bytes of shared memory for two sets of sums of all warps, in turn (moe_decode: for one round's),
// and for zeros.
constexpr size_t kZeroBytes = 64;
template <int groups>
constexpr size_t kDecodeSumBytes =
    2 * kDecodeWarps * groups * kTileSums * sizeof(float) + kZeroBytes;

// What a block has beside its ring: sums, then zeros.
template <int groups>
struct DecodeSums {
    float* sums;
    std::byte* zeros;

    __device__ explicit DecodeSums(std::byte* at)
        : sums(reinterpret_cast<float*>(at)), zeros(at + kDecodeSumBytes<groups> - kZeroBytes) {
        if (threadIdx.x < kZeroBytes / 4) reinterpret_cast<uint32_t*>(zeros)[threadIdx.x] = 0;
    }
    __device__ float* set(int turn) const {
        return sums + turn % 2 * (kDecodeWarps * groups * kTileSums);
    }
};

// What a warp copies and multiplies at once: 1 KiB, two times 16 bytes a lane, and its scales.
template <class Tiles>
struct Chunk {
    static constexpr int kSteps = 1024 / Tiles::kStepBytes;
    static constexpr int kColumns = kSteps * Tiles::kColumns;
    static constexpr int kTiles = kColumns / kTileColumns;
    static constexpr int kScaleBytes = kSteps * Tiles::kStepScaleBytes;
    static constexpr int kBytes = 1024 + kScaleBytes;

    // Starts the copies: this lane's data and scales; without the second half, it becomes zeros.
    static __device__ __forceinline__ void copy(std::byte* slot, const std::byte* data,
                                                const std::byte* scales, bool whole, int lane) {
        copy_async_16(slot + lane * 16, data, true);
        copy_async_16(slot + lane * 16 + 512, data + 512, whole);
        if constexpr (kScaleBytes > 0) {
            constexpr int kLanes = kScaleBytes / 16;
            if (lane < kLanes)
                copy_async_16(slot + 1024 + lane * 16, scales, whole || lane < kLanes / 2);
        }
    }
};

// sums += a chunk of bf16 weights times the rows, from their tile `tile` on.
template <int terms, int groups>
__device__ __forceinline__ void multiply_chunk(float (&sums)[groups][4], const std::byte* slot,
                                               int tile, const Operands<groups>& rows, int lane,
                                               Chunk<Bf16Tiles>) {
    const uint4 first = *reinterpret_cast<const uint4*>(slot + lane * 16);
    const uint4 second = *reinterpret_cast<const uint4*>(slot + lane * 16 + 512);
    const uint32_t a[2][4] = {{first.x, first.y, first.z, first.w},
                              {second.x, second.y, second.z, second.w}};
#pragma unroll
    for (int g = 0; g < groups; ++g) {
        const uint4 b = rows.load(tile, g);
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
template <int terms, int groups>
__device__ __forceinline__ void multiply_chunk(float (&sums)[groups][4], const std::byte* slot,
                                               int tile, const Operands<groups>& rows, int lane,
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
            for (int g = 0; g < groups; ++g) {
                const uint4 b = rows.load(tile + 2 * step + t, g);
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

// Whether the decode form's rows are f16 terms. Those of two terms: an int8 weight is an f16, and
// their range is that of a norm's results and of a float16 cache. In exact precision a cache is
// float32. Their sums are to be multiplied by kF16Unit.
template <class Tiles, int terms>
constexpr bool kF16Rows = std::is_same_v<Tiles, Int8Tiles> && terms <= kFastTerms;

// The same of int8 weights and rows of f16 terms if kF16Rows, else of bf16 terms.
template <int terms, int groups>
__device__ __forceinline__ void multiply_chunk(float (&sums)[groups][4], const std::byte* slot,
                                               int tile, const Operands<groups>& rows, int lane,
                                               Chunk<Int8Tiles> chunk) {
    constexpr bool f16 = kF16Rows<Int8Tiles, terms>;
#pragma unroll
    for (int step = 0; step < chunk.kSteps; ++step) {
        const uint4 words = *reinterpret_cast<const uint4*>(slot + step * 512 + lane * 16);
        const RowScales scale = Int8Tiles::row_scales(
            *reinterpret_cast<const uint32_t*>(slot + 1024 + step * 32 + lane / 4 * 4));
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            Int8Tiles::values<f16 ? Int8Tiles::f16_pair : Int8Tiles::bf16_pair>(words, i, a[i]);
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            const uint4 b = rows.load(tile + step, g);
            float part[4] = {};
            if constexpr (f16) {
                mma_f16(part, a[0], b.x, b.y);
                mma_f16(part, a[1], b.z, b.w);
            } else {
                mma_bf16(part, a[0], b.x, b.y);
                mma_bf16(part, a[1], b.z, b.w);
            }
            add_part(sums[g], part, scale);
        }
    }
}

// A warp's way through chunks [0, chunks) of the block's items, each a panel or a part of one: its
// own are those numbered warp, warp + 8 and so on of each. Way is where the items' panels lie: bool
// next(Panel&) goes on to the next one, false past the last. With kFollows, bool follow() does so
// if that lies right behind, of a matrix `m`, and else nothing.
template <class Tiles, int ring_bytes, class Way>
struct WeightStream {
    using Piece = Chunk<Tiles>;
    static constexpr int kSlots = ring_bytes / kDecodeWarps / Piece::kBytes;
    static_assert(kSlots >= 2);

    std::byte* ring;  // this warp's
    int lane, warp;
    int own;    // chunks of a panel that are this warp's
    bool half;  // the last of its own chunks of a panel is half a one
    Way way;

    const std::byte *data = nullptr, *scales = nullptr;  // this lane's of the next chunk to copy
    int left = 0;  // own chunks of that panel, it included; 0: there are no more
    int slot = 0;  // of the next chunk to be multiplied

    // Starts the first copies.
    __device__ __forceinline__ WeightStream(std::byte* shared, int chunk_count, int steps,
                                            const Way& panels)
        : lane(threadIdx.x % kWarp), warp(threadIdx.x / kWarp), way(panels) {
        own = (chunk_count - warp + kDecodeWarps - 1) / kDecodeWarps;
        ring = shared + warp * (kSlots * Piece::kBytes);
        half = steps % Piece::kSteps != 0 && (chunk_count - 1) % kDecodeWarps == warp;
        if (own > 0) take_panel();
#pragma unroll 1
        for (int i = 0; i < kSlots; ++i) copy(i);
    }

    __device__ __forceinline__ void take_panel() {
        Panel panel = {};
        if (!way.next(panel)) return;
        data = panel.data + warp * 1024 + lane * 16;
        scales = panel.scales + warp * Piece::kScaleBytes + lane * 16;
        left = own;
    }

    // take_panel() without its arithmetic, where the next panel lies behind this one.
    __device__ __forceinline__ bool follow_panel() {
        if constexpr (Way::kFollows) {
            if (!way.follow()) return false;
            const int steps = step_count<Tiles>(way.m.columns);
            data += steps * int(Tiles::kStepBytes) - own * (kDecodeWarps * 1024);
            scales +=
                steps * int(Tiles::kStepScaleBytes) - own * (kDecodeWarps * Piece::kScaleBytes);
            left = own;
            return true;
        } else {
            return false;
        }
    }

    __device__ __forceinline__ void copy(int to) {
        if (left > 0) {
            Piece::copy(ring + to * Piece::kBytes, data, scales, !half || left > 1, lane);
            data += kDecodeWarps * 1024;
            scales += kDecodeWarps * Piece::kScaleBytes;
            if (--left == 0 && !follow_panel()) take_panel();
        }
        copy_async_commit();
    }

    // sums += this warp's share of one item.
    template <int terms, int groups>
    __device__ __forceinline__ void multiply(float (&sums)[groups][4],
                                             const Operands<groups>& rows) {
#pragma unroll 1
        for (int i = 0; i < own; ++i) {
            copy_async_wait<kSlots - 1>();
            if constexpr (Piece::kScaleBytes > 0) __syncwarp();  // scales come by other lanes
            multiply_chunk<terms, groups>(sums, ring + slot * Piece::kBytes,
                                          (warp + i * kDecodeWarps) * Piece::kTiles, rows, lane,
                                          Piece{});
            if constexpr (Piece::kScaleBytes > 0) __syncwarp();
            copy(slot);
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
template <int terms, int groups, bool f16>
__device__ __forceinline__ float join_warps(const float (&sums)[groups][4], float* buffer,
                                            const SharedRows<terms, f16>& rows) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
    for (int g = 0; g < groups; ++g) {
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

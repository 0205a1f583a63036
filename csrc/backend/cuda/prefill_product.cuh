// The prefill form of a product: many activation rows, one kernel for bf16, int8 and MXFP4 weights.
//
// A block computes 128 weight rows x 8 * kRowTiles activation rows. Each of its four warps takes
// two panels, whose weights go from memory straight into the operand's place (MXFP4 and int8 are
// decoded there); the activations, which all warps share, come through shared memory by
// asynchronous copies, several steps ahead. An activation row's sums run over the columns in one
// order, whatever stands beside it. Bound by the matrix units.
#pragma once

#include "backend/cuda/activations.cuh"
#include "backend/cuda/device.h"
#include "backend/cuda/tiles.cuh"

namespace gptoss::cuda {

constexpr int kPrefillWarps = 4;
constexpr int kPrefillThreads = kPrefillWarps * kWarp;
constexpr int kWarpPanels = 2;
constexpr int kBlockPanels = kPrefillWarps * kWarpPanels;
constexpr int kStages = 3;  // steps of activations in shared memory

// Which activation rows a block's columns are: a stretch of one expert's, or of all.
struct RowTile {
    int expert;
    int first, count;  // of the list
};

// All rows in their order, one matrix.
struct AllRows {
    static constexpr bool kKnown = true;  // before the kernels before have ended
    int rows;

    __device__ RowTile tile(int index, int size) const {
        const int first = index * size;
        return {0, first, first < rows ? min(size, rows - first) : 0};
    }
    __device__ int output(int i) const { return i; }
    __device__ int input(int i) const { return i; }
};

// Pairs (token, slot) sorted by expert (sort_pairs.cu).
struct SortedPairs {
    static constexpr bool kKnown = false;
    const int* sorted;     // [pairs]
    const RowTile* tiles;  // [tile_count]
    const int* tile_count;
    int slots;  // of a pair's input row: top_k where tokens are the input, 1 where pairs are

    __device__ RowTile tile(int index, int) const {
        return index < *tile_count ? tiles[index] : RowTile{0, 0, 0};
    }
    __device__ int output(int i) const { return sorted[i]; }
    __device__ int input(int i) const { return sorted[i] / slots; }
};

template <class Tiles, int terms, int kRowTiles>
struct PrefillShape {
    static constexpr int kRows = 8 * kRowTiles;
    static constexpr int kStepTiles = Tiles::kColumns / kTileColumns;
    static constexpr size_t kStageBytes = size_t(kStepTiles) * terms * kRows * kTileColumns * 2;
    static constexpr size_t kSharedBytes = kStages * kStageBytes + 2 * kRows * sizeof(int);
};

// Starts the copies of one step's activations: [tile][term][row][32].
template <class Tiles, int terms, int kRowTiles>
__device__ __forceinline__ void copy_step(std::byte* stage, const std::byte* own, const int* input,
                                          int step, int columns) {
    using Shape = PrefillShape<Tiles, terms, kRowTiles>;
    constexpr int kChunks = kTileColumns * 2 / 16;  // of 16 bytes, in a row of a tile
    constexpr int kAll = Shape::kStepTiles * terms * Shape::kRows * kChunks;
#pragma unroll
    for (int i = threadIdx.x; i < kAll; i += kPrefillThreads) {
        const int chunk = i % kChunks, row = i / kChunks % Shape::kRows;
        const int term = i / (kChunks * Shape::kRows) % terms;
        const int tile = i / (kChunks * Shape::kRows * terms);
        const int column = (step * Shape::kStepTiles + tile) * kTileColumns + chunk * 8;
        const bool valid = input[row] >= 0 && column < columns;
        const size_t at = (size_t(max(input[row], 0)) * terms + term) * columns + column;
        copy_async_16(stage + i * 16, valid ? own + at * 2 : own, valid);
    }
}

// sums += one step of this warp's panels times the block's activation rows.
template <class Tiles, int terms, int kRowTiles>
__device__ __forceinline__ void multiply_step(float (&sums)[kWarpPanels][kRowTiles][4],
                                              const typename Tiles::Loaded (&weights)[kWarpPanels],
                                              const std::byte* stage, int lane) {
    using Shape = PrefillShape<Tiles, terms, kRowTiles>;
#pragma unroll
    for (int tile = 0; tile < Shape::kStepTiles; ++tile) {
        uint32_t a[kWarpPanels][2][4];
#pragma unroll
        for (int p = 0; p < kWarpPanels; ++p) {
            Tiles::fragment(weights[p], 2 * tile, a[p][0]);
            Tiles::fragment(weights[p], 2 * tile + 1, a[p][1]);
        }
        constexpr size_t kTermBytes = size_t(Shape::kRows) * kTileColumns * 2;
        const std::byte* from = stage + tile * terms * kTermBytes + lane * 16;
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) {
            uint4 b[terms];
#pragma unroll
            for (int term = 0; term < terms; ++term)
                b[term] = *reinterpret_cast<const uint4*>(from + term * kTermBytes +
                                                          n * 8 * kTileColumns * 2);
#pragma unroll
            for (int p = 0; p < kWarpPanels; ++p)
                multiply_terms<terms>(
                    sums[p][n], a[p], [&](int term) { return b[term]; }, Tiles::scale(weights[p]));
        }
    }
}

// Epilogue: void operator()(int expert, int panel, int r, int output, float low, float high) with
// the sums of rows r and r + 8 of a panel.
template <class Tiles, int terms, int kRowTiles, class Rows, class Epilogue>
__global__ __launch_bounds__(kPrefillThreads, kRowTiles > 8 ? 1 : 2) void prefill_product(
    Matrix m, const std::byte* own, Rows rows, Epilogue epilogue) {
    using Shape = PrefillShape<Tiles, terms, kRowTiles>;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    std::byte* const shared = shared_memory();
    int* const input = reinterpret_cast<int*>(shared + kStages * Shape::kStageBytes);
    int* const output = input + Shape::kRows;

    wait_for_earlier_kernels();
    let_next_kernel_start();
    const RowTile tile = rows.tile(blockIdx.y, Shape::kRows);
    if (tile.count == 0) return;
    for (int i = threadIdx.x; i < Shape::kRows; i += kPrefillThreads) {
        input[i] = i < tile.count ? rows.input(tile.first + i) : -1;
        output[i] = i < tile.count ? rows.output(tile.first + i) : -1;
    }
    __syncthreads();

    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    const int first_panel = blockIdx.x * kBlockPanels + warp * kWarpPanels;
    Panel panel[kWarpPanels];
#pragma unroll
    for (int p = 0; p < kWarpPanels; ++p)  // a panel past the end reads the last one, for nothing
        panel[p] = panel_of<Tiles>(m, tile.expert, min(first_panel + p, panels - 1));

    typename Tiles::Loaded weights[kWarpPanels];
#pragma unroll
    for (int p = 0; p < kWarpPanels; ++p) weights[p] = Tiles::load(panel[p], 0, lane);
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
        if (s < steps)
            copy_step<Tiles, terms, kRowTiles>(shared + s * Shape::kStageBytes, own, input, s,
                                               m.columns);
        copy_async_commit();
    }
    float sums[kWarpPanels][kRowTiles][4] = {};
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<kStages - 2>();
        __syncthreads();
        const int later = step + kStages - 1;
        if (later < steps)
            copy_step<Tiles, terms, kRowTiles>(shared + later % kStages * Shape::kStageBytes, own,
                                               input, later, m.columns);
        copy_async_commit();
        typename Tiles::Loaded following[kWarpPanels];
#pragma unroll
        for (int p = 0; p < kWarpPanels; ++p)
            following[p] = Tiles::load(panel[p], min(step + 1, steps - 1), lane);
        multiply_step<Tiles, terms, kRowTiles>(sums, weights,
                                               shared + step % kStages * Shape::kStageBytes, lane);
#pragma unroll
        for (int p = 0; p < kWarpPanels; ++p) weights[p] = following[p];
    }
#pragma unroll
    for (int p = 0; p < kWarpPanels; ++p) {
        if (first_panel + p >= panels) break;
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int column = n * 8 + lane % 4 * 2 + i;
                if (column < tile.count)
                    epilogue(tile.expert, first_panel + p, lane / 4, output[column],
                             sums[p][n][i] * Tiles::kUnit, sums[p][n][i + 2] * Tiles::kUnit);
            }
        }
    }
}

template <class Tiles, int terms, int kRowTiles, class Rows, class Epilogue>
void launch_prefill(const Device& device, const Matrix& m, const std::byte* own, const Rows& rows,
                    int row_tiles, const Epilogue& epilogue) {
    using Shape = PrefillShape<Tiles, terms, kRowTiles>;
    const int blocks = (panel_count(m.rows) + kBlockPanels - 1) / kBlockPanels;
    launch(device, prefill_product<Tiles, terms, kRowTiles, Rows, Epilogue>,
           dim3(blocks, row_tiles), dim3(kPrefillThreads), Shape::kSharedBytes, m, own, rows,
           epilogue);
}

}  // namespace gptoss::cuda

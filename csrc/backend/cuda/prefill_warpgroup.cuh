// The prefill form of a product by warpgroups (sm_90a), activations of one bf16 term.
//
// A block computes 192 weight rows x up to 128 activation rows; each of its twelve warps has a
// panel of weights, which is the unit's left operand as it stands (MXFP4 and int8 are decoded in
// registers, while earlier products run). Weights and activations come through shared memory by
// asynchronous copies, several steps of 64 columns ahead. How many activation rows a product has
// follows from the tile's count, by 32: experts have few. A sum runs over the columns in one order,
// whatever stands beside it. Bound by the matrix units, with few rows by the second-level cache.
#pragma once

#include "backend/cuda/prefill_product.cuh"
#include "backend/cuda/warpgroup.cuh"

namespace gptoss::cuda {

constexpr int kGroups = 3;  // 192 divides the rows of the published models' matrices, or nearly
constexpr int kGroupPanels = 4;
constexpr int kGroupThreads = kGroups * kGroupPanels * kWarp;  // of a block
constexpr int kGroupsPanels = kGroups * kGroupPanels;          // of a block
constexpr int kGroupRows = 128;                                // activation rows of a block at most
constexpr int kGroupColumns = 64;                              // of a step
constexpr int kStepProducts = kGroupColumns / 16;

// A step in shared memory: activation rows as describe_rows() has them, then each panel's weights.
template <class Tiles>
struct GroupStage {
    static constexpr int kLoads = kGroupColumns / Tiles::kColumns;
    static constexpr size_t kLoadBytes = Tiles::kStepBytes + Tiles::kStepScaleBytes;
    static constexpr size_t kPanelBytes = kLoads * kLoadBytes;
    static constexpr size_t kRowsBytes = size_t{kGroupRows} * kGroupColumns * 2;
    static constexpr size_t kBytes =
        (kRowsBytes + kGroupsPanels * kPanelBytes + 1023) / 1024 * 1024;
    static constexpr int kMost = static_cast<int>(size_t{200} * 1024 / kBytes);
    static constexpr int kCount = kMost > 6 ? 6 : kMost;
    // A stage is filled while the products of the one before may still read theirs.
    static constexpr int kAhead = kCount - 2;
    static constexpr size_t kSharedBytes = kCount * kBytes + 2 * kGroupRows * sizeof(int);
};

// Starts the copies of this warp's weights of one step; past the last column they are zeros.
template <class Tiles>
__device__ __forceinline__ void copy_weights(std::byte* to, const Panel& panel, int step,
                                             int columns, int lane) {
    constexpr int kChunk = kWarp * 16;
#pragma unroll
    for (int load = 0; load < GroupStage<Tiles>::kLoads; ++load) {
        const int own_step = step * GroupStage<Tiles>::kLoads + load;
        const bool valid = own_step * Tiles::kColumns < columns;
        const size_t from = valid ? own_step : 0;
        std::byte* const at = to + load * GroupStage<Tiles>::kLoadBytes + lane * 16;
#pragma unroll
        for (size_t i = 0; i < Tiles::kStepBytes; i += kChunk)
            copy_async_16(at + i, panel.data + from * Tiles::kStepBytes + i + lane * 16, valid);
        if (lane * 16 < static_cast<int>(Tiles::kStepScaleBytes))
            copy_async_16(at + Tiles::kStepBytes,
                          panel.scales + from * Tiles::kStepScaleBytes + lane * 16, valid);
    }
}

#ifdef GPTOSS_HAS_WARPGROUPS

// A warp's weights of a step in shared memory. fragment() comes after the wait that frees the
// registers of product i, and makes nothing for them before (warpgroup.cuh, hold).
template <class Tiles>
struct StepWeights;

template <>
struct StepWeights<Bf16Tiles> {
    const std::byte* own;

    __device__ StepWeights(const std::byte* at, int lane) : own(at + lane * 16) {}
    __device__ void fragment(int i, uint32_t (&a)[4]) {
        const uint4 v = *reinterpret_cast<const uint4*>(own + i * (Bf16Tiles::kStepBytes / 2));
        a[0] = v.x;
        a[1] = v.y;
        a[2] = v.z;
        a[3] = v.w;
    }
};

template <>
struct StepWeights<Mxfp4Tiles> {
    Mxfp4Tiles::Loaded w;

    __device__ StepWeights(const std::byte* at, int lane)
        : w{*reinterpret_cast<const uint4*>(at + lane * 16),
            *reinterpret_cast<const uint32_t*>(at + Mxfp4Tiles::kStepBytes + lane / 4 * 4)} {}
    __device__ void fragment(int i, uint32_t (&a)[4]) {
        hold(i < 2 ? w.words.x : w.words.z);
        hold(i < 2 ? w.words.y : w.words.w);
        hold(w.scales);
        Mxfp4Tiles::fragment(w, i, a);
    }
};

template <>
struct StepWeights<Int8Tiles> {
    Int8Tiles::Loaded w[GroupStage<Int8Tiles>::kLoads];

    __device__ StepWeights(const std::byte* at, int lane) {
#pragma unroll
        for (Int8Tiles::Loaded& tile : w) {
            tile.words = *reinterpret_cast<const uint4*>(at + lane * 16);
            tile.scales =
                *reinterpret_cast<const uint32_t*>(at + Int8Tiles::kStepBytes + lane / 4 * 4);
            at += GroupStage<Int8Tiles>::kLoadBytes;
        }
    }
    __device__ void fragment(int i, uint32_t (&a)[4]) {
        Int8Tiles::Loaded& tile = w[i / 2];
        hold(i % 2 ? tile.words.z : tile.words.x);
        hold(i % 2 ? tile.words.w : tile.words.y);
        hold(tile.scales);
        Int8Tiles::fragment(tile, i % 2, a);
    }
};

// The activation rows that this thread copies: 16 bytes of a step's 128, of every 48th row.
template <int kRows>
struct CopiedRows {
    static constexpr int kChunks = kGroupColumns * 2 / 16;
    static constexpr int kEach = kGroupThreads / kChunks;
    static constexpr int kCount = (kRows + kEach - 1) / kEach;

    const std::byte* from[kCount];
    int chunk, first, count, columns;

    __device__ CopiedRows(const std::byte* own, const int* input, int count, int columns)
        : chunk(threadIdx.x % kChunks),
          first(threadIdx.x / kChunks),
          count(count),
          columns(columns) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int row = first + i * kEach;
            const int source = row < count ? input[row] : 0;
            from[i] = own + size_t(source) * columns * 2 + chunk * 16;
        }
    }
    // What stands in rows from `count` on is in nobody's sum.
    __device__ void start(std::byte* tile, int step) const {
        const bool valid = step * kGroupColumns + chunk * 8 < columns;
        const size_t at = valid ? step * kGroupColumns * 2 : 0;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int row = first + i * kEach;
            if (row < count)
                copy_async_16(tile + row * 128 + (chunk ^ row % 8) * 16, from[i] + at, valid);
        }
    }
};

// The sums of kRows activation rows, from the first copy of activations on: thread by thread in
// shared memory in the end, [kRows / 2][kGroupThreads]. The weights of the first kAhead steps are
// on their way.
template <class Tiles, int kRows>
__device__ __forceinline__ void multiply_group_rows(std::byte* shared, const Panel& panel,
                                                    const Matrix& m, const RowTile& tile,
                                                    const std::byte* own, const int* rows) {
    using Stage = GroupStage<Tiles>;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int steps = (m.columns + kGroupColumns - 1) / kGroupColumns;
    const size_t weights_at = Stage::kRowsBytes + warp * Stage::kPanelBytes;
    const CopiedRows<kRows> copied(own, rows, tile.count, m.columns);
#pragma unroll
    for (int s = 0; s < Stage::kAhead; ++s) {
        if (s < steps) copied.start(shared + s * Stage::kBytes, s);
        copy_async_commit();
    }
    float sums[kRows / 2] = {};
    uint32_t a[kStepProducts][4];  // of the latest products, which may still run
    int now = 0, later = Stage::kAhead;
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<Stage::kAhead - 1>();
        show_shared_to_products();
        __syncthreads();
        if (step + Stage::kAhead < steps) {
            std::byte* const stage = shared + later * Stage::kBytes;
            copy_weights<Tiles>(stage + weights_at, panel, step + Stage::kAhead, m.columns, lane);
            copied.start(stage, step + Stage::kAhead);
        }
        copy_async_commit();
        const std::byte* const stage = shared + now * Stage::kBytes;
        StepWeights<Tiles> weights(stage + weights_at, lane);
#pragma unroll
        for (int i = 0; i < kStepProducts; ++i) {
            wait_for_products<kStepProducts - 1>();
            weights.fragment(i, a[i]);
            begin_product();
            start_product<kRows>(sums, a[i], describe_rows(stage, i));
            commit_product();
        }
        now = now + 1 == Stage::kCount ? 0 : now + 1;
        later = later + 1 == Stage::kCount ? 0 : later + 1;
    }
    finish_products(sums);
    __syncthreads();  // nobody's products read the stages any more
    float* const out = reinterpret_cast<float*>(shared) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) out[i * kGroupThreads] = sums[i] * Tiles::kUnit;
}

// A thread's sums to where they belong. From shared memory, so that one small loop does it for
// every number of rows.
template <class Epilogue>
__device__ __forceinline__ void give_sums(const std::byte* shared, int own_panel,
                                          const RowTile& tile, const int* output,
                                          const Epilogue& epilogue) {
    constexpr int kTogether = 4;  // columns, whose reads of memory need not wait for each other
    const int lane = threadIdx.x % kWarp;
    const float* const sums = reinterpret_cast<const float*>(shared) + threadIdx.x;
#pragma unroll 1
    for (int first = 0; first < tile.count; first += 4 * kTogether) {
        const float* const at = sums + first / 2 * kGroupThreads;
        typename Epilogue::Ready ready[kTogether];
        int row[kTogether];
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
            const int column = first + j / 2 * 8 + lane % 4 * 2 + j % 2;
            row[j] = column < tile.count ? output[column] : -1;
            if (row[j] >= 0) ready[j] = epilogue.prepare(tile.expert, own_panel, lane / 4, row[j]);
        }
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
            const int i = j / 2 * 4 + j % 2;
            if (row[j] >= 0)
                epilogue(ready[j], tile.expert, own_panel, lane / 4, row[j], at[i * kGroupThreads],
                         at[(i + 2) * kGroupThreads]);
        }
    }
}

#endif

// Epilogue: prepare(expert, panel, r, row) reads what operator() then wants beside the sums of rows
// r and r + 8 of the panel.
template <class Tiles, class Rows, class Epilogue>
__global__ __launch_bounds__(kGroupThreads,
                             1) void prefill_group_product(Matrix m, const std::byte* own,
                                                           Rows source, int tile_rows,
                                                           Epilogue epilogue) {
#ifdef GPTOSS_HAS_WARPGROUPS
    using Stage = GroupStage<Tiles>;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int own_panel = blockIdx.x * kGroupsPanels + warp;
    std::byte* const shared = shared_tiles();
    int* const rows = reinterpret_cast<int*>(shared + Stage::kCount * Stage::kBytes);
    // A panel past the end reads the last one, for nothing.
    const int read_panel = min(own_panel, panel_count(m.rows) - 1);
    const auto start_weights = [&](int expert) {
        const Panel panel = panel_of<Tiles>(m, expert, read_panel);
#pragma unroll
        for (int s = 0; s < Stage::kAhead; ++s)
            copy_weights<Tiles>(
                shared + s * Stage::kBytes + Stage::kRowsBytes + warp * Stage::kPanelBytes, panel,
                s, m.columns, lane);
        return panel;
    };
    Panel panel{};
    if constexpr (Rows::kKnown) panel = start_weights(0);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const RowTile tile = source.tile(blockIdx.y, tile_rows);
    if (tile.count == 0) return;
    if constexpr (!Rows::kKnown) panel = start_weights(tile.expert);
    for (int i = threadIdx.x; i < tile.count; i += kGroupThreads) {
        rows[i] = source.input(tile.first + i);
        rows[kGroupRows + i] = source.output(tile.first + i);
    }
    __syncthreads();
    const auto multiply = [&](auto count) {
        multiply_group_rows<Tiles, count()>(shared, panel, m, tile, own, rows);
    };
    if (tile.count <= 32)
        multiply(std::integral_constant<int, 32>());
    else if (tile.count <= 64)
        multiply(std::integral_constant<int, 64>());
    else if (tile.count <= 96)
        multiply(std::integral_constant<int, 96>());
    else
        multiply(std::integral_constant<int, 128>());
    if (own_panel < panel_count(m.rows))
        give_sums(shared, own_panel, tile, rows + kGroupRows, epilogue);
#else
    __trap();
#endif
}

template <class Tiles, class Rows, class Epilogue>
void launch_group_prefill(const Device& device, const Matrix& m, const std::byte* own,
                          const Rows& rows, int row_tiles, int tile_rows,
                          const Epilogue& epilogue) {
    const int blocks = (panel_count(m.rows) + kGroupsPanels - 1) / kGroupsPanels;
    launch(device, prefill_group_product<Tiles, Rows, Epilogue>, dim3(blocks, row_tiles),
           dim3(kGroupThreads), GroupStage<Tiles>::kSharedBytes, m, own, rows, tile_rows, epilogue);
}

// Rows of a tile, so that the blocks fill the device: bits do not depend on it.
inline int group_tile_rows(const Device& device, const Matrix& m, int rows) {
    const int blocks = (panel_count(m.rows) + kGroupsPanels - 1) / kGroupsPanels;
    constexpr int kWeightRows = 64;  // what a block's weights cost beside a row
    int best = kGroupRows, least = 0;
    for (int size = kGroupRows; size >= 32; size -= 32) {
        const int all = blocks * ((rows + size - 1) / size);
        const int rounds = (all + device.multiprocessors - 1) / device.multiprocessors;
        const int cost = rounds * (size + kWeightRows);
        if (least == 0 || cost < least) {
            least = cost;
            best = size;
        }
    }
    return best;
}

}  // namespace gptoss::cuda

// The decode form of the experts' products: each chosen expert's weights are read once for all the
// rows that chose it.
//
// The work is the panels of the chosen experts, in one line, cut into equal stretches for as many
// blocks as the device holds; a block fills its activations when it comes to another expert. Bound
// by the weights' bytes.
#pragma once

#include "backend/cuda/dense_decode.cuh"

namespace gptoss::cuda {

constexpr int kMostPairs = kDecodeRows * 8;  // rows x experts of a row

struct ExpertRows {
    const int* expert;     // [pairs]
    const std::byte* own;  // [pairs / slots, columns] activations in the own form
    int pairs;
    int slots;  // pairs that share an input row
};

// The experts chosen, in the order of their first pair, in shared memory.
struct ChosenExperts {
    int pair_expert[kMostPairs];
    int expert[kMostPairs];
    int pair[kDecodeRows];  // of the expert at hand
    int count;              // experts
    int rows;               // of the expert at hand
    int flag;

    __device__ void find(const ExpertRows& in) {
        for (int i = threadIdx.x; i < in.pairs; i += blockDim.x) pair_expert[i] = in.expert[i];
        __syncthreads();
        const int i = threadIdx.x;
        const auto first_of_its_expert = [&](int pair) {
            for (int before = 0; before < pair; ++before)
                if (pair_expert[before] == pair_expert[pair]) return false;
            return true;
        };
        if (i < in.pairs) {
            int rank = 0;
            for (int before = 0; before < i; ++before) rank += first_of_its_expert(before);
            const bool first = first_of_its_expert(i);
            if (first) expert[rank] = pair_expert[i];
            if (i == in.pairs - 1) count = rank + first;
        }
        __syncthreads();
    }

    // Lists the pairs of the expert numbered `index`. Between barriers.
    __device__ void take(const ExpertRows& in, int index) {
        if (threadIdx.x == 0) {
            rows = 0;
            for (int i = 0; i < in.pairs; ++i)
                if (pair_expert[i] == expert[index]) pair[rows++] = i;
        }
    }
};

// Copies the rows of the expert at hand, 16 bytes a thread at a time; columns that only pad the
// last step become zeros.
template <int terms>
__device__ __forceinline__ void fill_rows(const SharedRows<terms>& out, const ExpertRows& in,
                                          const int* pair, int columns, int padded) {
    constexpr int kChunk = 8;  // values
    const int chunks = padded / kChunk;
    for (int i = threadIdx.x; i < chunks * terms * out.rows; i += kDecodeThreads) {
        const int k = i % chunks * kChunk, term = i / chunks % terms, row = i / chunks / terms;
        const std::byte* from =
            in.own + size_t(pair[row] / in.slots) * own_row_bytes<terms>(columns);
        uint4 v = make_uint4(0, 0, 0, 0);
        if (k < columns)
            v = *reinterpret_cast<const uint4*>(from + (size_t(term) * columns + k) * 2);
        *reinterpret_cast<uint4*>(out.at(k / kTileColumns, term, row) + k % kTileColumns * 2) = v;
    }
}

// Epilogue: void operator()(int expert, int panel, int r, int pair, float low, float high), then
// void finish_panel(int panel, int experts, int* flag) by all threads.
template <int terms, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads, 2) void moe_decode(Matrix m, ExpertRows in,
                                                                Epilogue epilogue) {
    using Tiles = Mxfp4Tiles;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    std::byte* const shared = shared_memory();
    float* const sums_buffer = reinterpret_cast<float*>(shared);
    auto& chosen = *reinterpret_cast<ChosenExperts*>(shared + kDecodeSumBytes);
    std::byte* const rows_at = shared + kDecodeSumBytes + (sizeof(ChosenExperts) + 15) / 16 * 16;

    wait_for_earlier_kernels();
    let_next_kernel_start();
    chosen.find(in);
    const int items = chosen.count * panels;
    const int begin = static_cast<int>(int64_t{items} * blockIdx.x / gridDim.x);
    const int end = static_cast<int>(int64_t{items} * (blockIdx.x + 1) / gridDim.x);
    const auto panel_at = [&](int item) {
        return panel_of<Tiles>(m, chosen.expert[item / panels], item % panels);
    };
    Flight<Tiles> flight;
    if (begin < end) flight.load(panel_at(begin), warp, steps, lane);
    int at_hand = -1;
    for (int item = begin; item < end; ++item) {
        const int index = item / panels;
        if (index != at_hand) {
            __syncthreads();
            chosen.take(in, index);
            __syncthreads();
            fill_rows(SharedRows<terms>{rows_at, chosen.rows}, in, chosen.pair, m.columns,
                      steps * Tiles::kColumns);
            __syncthreads();
            at_hand = index;
        }
        const SharedRows<terms> rows = {rows_at, chosen.rows};
        float sums[4] = {};
        multiply_panel(sums, flight, panel_at(item), 0, steps, rows, warp, lane);
        if (item + 1 < end) flight.load(panel_at(item + 1), warp, steps, lane);
        float* const buffer = sums_buffer + item % 2 * (kDecodeWarps * kTileSums);
        const float sum = join_warps(sums, buffer, warp, lane);
        if (threadIdx.x < kTileSums) {
            const float high = __shfl_down_sync(0xffffffffu, sum, 2);
            const SumPlace at = sum_place(threadIdx.x);
            if (at.low && at.column < chosen.rows)
                epilogue(chosen.expert[index], item % panels, at.r, chosen.pair[at.column],
                         sum * Tiles::kUnit, high * Tiles::kUnit);
        }
        epilogue.finish_panel(item % panels, chosen.count, &chosen.flag);
    }
}

template <int terms, class Epilogue>
void launch_moe_decode(const Device& device, const Matrix& m, const ExpertRows& in,
                       const Epilogue& epilogue) {
    using Tiles = Mxfp4Tiles;
    const auto kernel = moe_decode<terms, Epilogue>;
    const int tokens = min(in.pairs, kDecodeRows);
    const size_t shared =
        kDecodeSumBytes + (sizeof(ChosenExperts) + 15) / 16 * 16 +
        SharedRows<terms>::bytes(tokens, step_count<Tiles>(m.columns) * Tiles::kColumns);
    const int resident =
        resident_blocks(reinterpret_cast<const void*>(kernel), kDecodeThreads, shared);
    const int blocks = min(resident * device.multiprocessors, in.pairs * panel_count(m.rows));
    launch(device, kernel, dim3(blocks), dim3(kDecodeThreads), shared, m, in, epilogue);
}

// Pairs that one launch's shared memory holds the rows of, in whole tokens.
template <int terms>
int moe_decode_tokens(const Device& device, int columns) {
    int tokens = kDecodeRows;
    const size_t row = SharedRows<terms>::bytes(1, columns + kTileColumns);
    while (tokens > 1 && kDecodeSumBytes + 1024 + tokens * row > device.shared_limit) --tokens;
    return tokens;
}

}  // namespace gptoss::cuda

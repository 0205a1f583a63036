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
    int first[kMostPairs];  // 1: no earlier pair has its expert
    int expert[kMostPairs];
    int pair[kDecodeRows];  // of the expert at hand
    int count;              // experts
    int rows;               // of the expert at hand

    __device__ void find(const ExpertRows& in) {
        const int i = threadIdx.x;
        if (i < in.pairs) pair_expert[i] = in.expert[i];
        __syncthreads();
        if (i < in.pairs) {
            int earlier = 0;
            for (int before = 0; before < i; ++before)
                earlier |= pair_expert[before] == pair_expert[i];
            first[i] = !earlier;
        }
        __syncthreads();
        if (i < in.pairs) {
            int rank = 0;
            for (int before = 0; before < i; ++before) rank += first[before];
            if (first[i]) expert[rank] = pair_expert[i];
            if (i == in.pairs - 1) count = rank + first[i];
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

constexpr size_t kChosenBytes = (sizeof(ChosenExperts) + 15) / 16 * 16;

// Copies the rows of the expert at hand; columns that only pad the last step become zeros.
template <int terms>
__device__ __forceinline__ void fill_rows(const SharedRows<terms>& out, const ExpertRows& in,
                                          const int* pair, int columns, int padded) {
    constexpr int kChunk = 8;  // values
    const unsigned chunks = padded / kChunk, all = chunks * terms * out.rows;
    for (unsigned i = threadIdx.x; i < all; i += kDecodeThreads) {
        const unsigned k = i % chunks * kChunk, term = i / chunks % terms, row = i / chunks / terms;
        const std::byte* from =
            in.own + size_t(pair[row] / in.slots) * own_row_bytes<terms>(columns);
        const bool valid = k < static_cast<unsigned>(columns);
        copy_async_16(out.at(k / kTileColumns, term, row) + k % kTileColumns * 2,
                      valid ? from + (size_t(term) * columns + k) * 2 : from, valid);
    }
    copy_async_commit();
    copy_async_wait<0>();
}

// Epilogue: void operator()(int expert, int panel, int r, int pair, float low, float high), then
// void finish_panel(int panel, int experts) by all threads.
template <int terms, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads,
                             terms > kFastTerms ? 1 : 2) void moe_decode(Matrix m, ExpertRows in,
                                                                         Epilogue epilogue) {
    using Tiles = Mxfp4Tiles;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    std::byte* const shared = shared_memory();
    float* const sums_buffer = reinterpret_cast<float*>(shared);
    auto& chosen = *reinterpret_cast<ChosenExperts*>(shared + kDecodeSumBytes);
    std::byte* const rows_at = shared + kDecodeSumBytes + kChosenBytes;

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
        const Panel next = panel_at(min(item + 1, end - 1));
        multiply_panel(sums, flight, panel_at(item), item + 1 < end, next, 0, steps, rows, warp,
                       lane);
        float* const buffer = sums_buffer + item % 2 * (kDecodeWarps * kTileSums);
        const float sum = join_warps(sums, buffer, warp, lane);
        if (threadIdx.x < kTileSums) {
            const float high = __shfl_down_sync(0xffffffffu, sum, 2);
            const SumPlace at = sum_place(threadIdx.x);
            if (at.low && at.column < chosen.rows)
                epilogue(chosen.expert[index], item % panels, at.r, chosen.pair[at.column],
                         sum * Tiles::kUnit, high * Tiles::kUnit);
        }
        epilogue.finish_panel(item % panels, chosen.count);
    }
}

// An expert has at most one pair of each token.
template <int terms>
size_t moe_decode_shared_bytes(int tokens, int columns) {
    return kDecodeSumBytes + kChosenBytes +
           SharedRows<terms>::bytes(tokens, step_count<Mxfp4Tiles>(columns) * Mxfp4Tiles::kColumns);
}

// Tokens that one launch can hold, of kDecodeRows at most.
template <int terms>
int moe_decode_tokens(const Device& device, int columns) {
    int tokens = kDecodeRows;
    while (tokens > 1 && moe_decode_shared_bytes<terms>(tokens, columns) > device.shared_limit)
        --tokens;
    return tokens;
}

template <int terms, class Epilogue>
void launch_moe_decode(const Device& device, const Matrix& m, const ExpertRows& in, int tokens,
                       const Epilogue& epilogue) {
    const auto kernel = moe_decode<terms, Epilogue>;
    const size_t shared = moe_decode_shared_bytes<terms>(tokens, m.columns);
    const int resident =
        resident_blocks(device, reinterpret_cast<const void*>(kernel), kDecodeThreads, shared);
    const int blocks = min(resident * device.multiprocessors, in.pairs * panel_count(m.rows));
    launch(device, kernel, dim3(blocks), dim3(kDecodeThreads), shared, m, in, epilogue);
}

}  // namespace gptoss::cuda

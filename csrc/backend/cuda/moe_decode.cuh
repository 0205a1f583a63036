// The decode form of the experts' products: each chosen expert's weights are read once for all the
// rows that chose it.
//
// The work is the panels of the chosen experts, in one line, cut into equal stretches for as many
// blocks as the device holds; a block fills its activations when it comes to other rows. Bound by
// the weights' bytes.
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
    int pair[kDecodeRows];   // of the expert at hand
    int input[kDecodeRows];  // the rows they are of
    int count;               // experts
    int rows;                // of the expert at hand
    bool same;               // as those of the expert before

    // By one warp; a barrier is to follow.
    __device__ void find(const ExpertRows& in, int lane) {
        // Past the first cache, which may hold what another layer's router wrote.
#pragma unroll 1
        for (int i = lane; i < in.pairs; i += kWarp) pair_expert[i] = __ldcg(in.expert + i);
        __syncwarp();
        int found = 0;
#pragma unroll 1
        for (int from = 0; from < in.pairs; from += kWarp) {
            const int i = from + lane;
            bool first = i < in.pairs;
#pragma unroll 1
            for (int before = 0; before < i && first; ++before)
                first = pair_expert[before] != pair_expert[i];
            const unsigned all = __ballot_sync(0xffffffffu, first);
            if (first) expert[found + __popc(all & ((1u << lane) - 1))] = pair_expert[i];
            found += __popc(all);
        }
        if (lane == 0) count = found;
    }

    // Lists the pairs of the expert numbered `index`, by one warp. Between barriers.
    __device__ void take(const ExpertRows& in, int index, bool first, int lane) {
        int taken = 0;
        bool differs = first;
#pragma unroll 1
        for (int from = 0; from < in.pairs; from += kWarp) {
            const int i = from + lane;
            const bool here = i < in.pairs && pair_expert[i] == expert[index];
            const unsigned all = __ballot_sync(0xffffffffu, here);
            const int place = taken + __popc(all & ((1u << lane) - 1));
            if (here) {
                const int row = i / in.slots;
                differs |= first || place >= rows || input[place] != row;
                pair[place] = i;
                input[place] = row;
            }
            taken += __popc(all);
        }
        differs = __any_sync(0xffffffffu, differs);
        __syncwarp();
        if (lane == 0) {
            same = !differs && taken == rows;
            rows = taken;
        }
    }
};

constexpr size_t kChosenBytes = (sizeof(ChosenExperts) + 15) / 16 * 16;

// Copies the rows of the expert at hand; columns that only pad the last chunk become zeros.
template <int terms>
__device__ __forceinline__ void fill_rows(const SharedRows<terms>& out, const ExpertRows& in,
                                          const int* input, int columns, int padded) {
    constexpr int kPiece = 8;  // values
    constexpr int kLoads = 3;  // under way at once
    const int pieces = padded / kPiece;
    int piece = threadIdx.x, term = 0, row = 0;
#pragma unroll 1
    while (term < terms) {
        uint4 value[kLoads];
        std::byte* to[kLoads];
#pragma unroll
        for (int n = 0; n < kLoads; ++n, piece += kDecodeThreads) {
            while (piece >= pieces) {
                piece -= pieces;
                if (++row == out.rows) row = 0, ++term;
            }
            value[n] = make_uint4(0, 0, 0, 0);
            to[n] = nullptr;
            if (term >= terms) continue;
            const int k = piece * kPiece;
            to[n] = out.at(k / kTileColumns, term, row) + k % kTileColumns * 2;
            const std::byte* own = in.own + size_t(input[row]) * own_row_bytes<terms>(columns);
            if (k < columns)
                value[n] =
                    __ldcg(reinterpret_cast<const uint4*>(own + (size_t(term) * columns + k) * 2));
        }
#pragma unroll
        for (int n = 0; n < kLoads; ++n)
            if (to[n]) *reinterpret_cast<uint4*>(to[n]) = value[n];
    }
}

// Bytes of a block's weights under way. There are two blocks a multiprocessor, since decoding MXFP4
// takes as many instructions as it does, and those of the kernel that follows fit beside.
constexpr int kMoeRing = 34 * 1024;
constexpr int kShortMoeRing = 20 * 1024;

// What a block's shared memory holds.
template <int terms, int groups, int ring_bytes>
struct MoeShared {
    std::byte* ring = shared_memory();
    std::byte* sums = ring + ring_bytes;
    ChosenExperts& chosen = *reinterpret_cast<ChosenExperts*>(sums + kDecodeSumBytes<groups>);
    std::byte* rows = sums + kDecodeSumBytes<groups> + kChosenBytes;
};

template <int terms>
size_t moe_decode_shared_bytes(int ring_bytes, int tokens, int columns) {
    constexpr int kColumns = Chunk<Mxfp4Tiles>::kColumns;
    const int padded = (columns + kColumns - 1) / kColumns * kColumns;
    const size_t sums =
        group_count<terms>(tokens) == 1 ? kDecodeSumBytes<1> : kDecodeSumBytes<terms>;
    return ring_bytes + sums + kChosenBytes + SharedRows<terms>::bytes(tokens, padded);
}

// A block's way through its stretch of the chosen experts' panels.
struct MoeWay {
    const Matrix& m;
    const int* expert;
    int panels, index, panel, left;

    __device__ __forceinline__ bool next(Panel& out) {
        if (left-- <= 0) return false;
        if (panel == panels) {
            panel = 0;
            ++index;
        }
        out = panel_of<Mxfp4Tiles>(m, expert[index], panel++);
        return true;
    }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kFastMoeBlocks = 3;  // by registers
#else
constexpr int kFastMoeBlocks = 4;
#endif

// Epilogue: as for dense_decode, with the pair for the column; what is prepared must be weights,
// and a panel's is loaded a panel ahead; prefetch(int expert, int panel) asks the second-level
// cache for it. Then void finish(int begin, int end, int panels, int experts) by all threads for
// the block's items. Epilogue::kChosenBefore says that the experts were chosen before the kernel
// before this one began: it lets the next one start only after it has waited itself.
template <int terms, int groups, int ring_bytes, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads, terms* groups <= kFastTerms
                                                 ? kFastMoeBlocks
                                                 : 2) void moe_decode(Matrix m, ExpertRows in,
                                                                      Epilogue epilogue) {
    using Tiles = Mxfp4Tiles;
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    const int chunks = (steps + Chunk<Tiles>::kSteps - 1) / Chunk<Tiles>::kSteps;
    const MoeShared<terms, groups, ring_bytes> shared;
    const DecodeSums<groups> buffers(shared.sums);
    ChosenExperts& chosen = shared.chosen;

    if (!Epilogue::kChosenBefore) wait_for_earlier_kernels();
    if (!Epilogue::kChosenBefore) let_next_kernel_start();
    if (threadIdx.x < kWarp) chosen.find(in, threadIdx.x);
    __syncthreads();
    const int items = chosen.count * panels;
    const int begin = static_cast<int>(unsigned(items) * blockIdx.x / gridDim.x);
    const int end = static_cast<int>(unsigned(items) * (blockIdx.x + 1) / gridDim.x);
    int index = begin / panels, panel = begin % panels;
    WeightStream<Tiles, ring_bytes, MoeWay> stream(
        shared.ring, chunks, steps, MoeWay{m, chosen.expert, panels, index, panel, end - begin});
    for (int i = begin + threadIdx.x; i < end; i += kDecodeThreads)
        epilogue.prefetch(chosen.expert[i / panels], i % panels);
    const SumPlace at = sum_place(threadIdx.x);
    typename Epilogue::Ready ready = {};
    if (threadIdx.x < kTileSums && begin < end)
        ready = epilogue.prepare(chosen.expert[index], panel, at.r);
    if (Epilogue::kChosenBefore) wait_for_earlier_kernels();
    if (Epilogue::kChosenBefore) let_next_kernel_start();
#pragma unroll 1
    for (int item = begin; item < end; ++item) {
        if (item == begin || panel == 0) {
            __syncthreads();
            if (threadIdx.x < kWarp) chosen.take(in, index, item == begin, threadIdx.x);
            __syncthreads();
            if (!chosen.same)
                fill_rows(SharedRows<terms>{shared.rows, chosen.rows}, in, chosen.input, m.columns,
                          chunks * Chunk<Tiles>::kColumns);
            __syncthreads();
        }
        const SharedRows<terms> rows = {shared.rows, chosen.rows};
        const bool mine = threadIdx.x < kTileSums && at.low && at.column < rows.rows;
        const int pair = mine ? chosen.pair[at.column] : 0, current = panel;
        if (++panel == panels) {
            panel = 0;
            ++index;
        }
        typename Epilogue::Ready next = {};
        if (threadIdx.x < kTileSums && item + 1 < end)
            next = epilogue.prepare(chosen.expert[index], panel, at.r);
        float sums[groups][4] = {};
        stream.template multiply<terms>(sums,
                                        Operands<groups>(rows, buffers.zeros, threadIdx.x % kWarp));
        const float sum = join_warps<terms>(sums, buffers.set(item), rows);
        if (threadIdx.x < kTileSums) {
            const float high = __shfl_down_sync(0xffffffffu, sum, 2);
            if (mine) epilogue(ready, current, at.r, pair, sum, high);
        }
        ready = next;
    }
    epilogue.finish(begin, end, panels, chosen.count);
}

// An expert has at most one pair of each token: tokens that one launch can hold, of kDecodeRows at
// most.
template <int terms>
int moe_decode_tokens(const Device& device, int columns) {
    int tokens = kDecodeRows;
    while (tokens > 1 &&
           moe_decode_shared_bytes<terms>(kShortMoeRing, tokens, columns) > device.shared_limit)
        --tokens;
    return tokens;
}

template <int terms, class Epilogue>
void launch_moe_decode(const Device& device, const Matrix& m, const ExpertRows& in, int tokens,
                       const Epilogue& epilogue) {
    const bool one = group_count<terms>(tokens) == 1;
    const auto launch_ring = [&](auto ring) {
        constexpr int kRing = ring();
        const auto kernel =
            one ? moe_decode<terms, 1, kRing, Epilogue> : moe_decode<terms, terms, kRing, Epilogue>;
        const size_t shared = moe_decode_shared_bytes<terms>(kRing, tokens, m.columns);
        const int resident =
            resident_blocks(device, reinterpret_cast<const void*>(kernel), kDecodeThreads, shared);
        const int blocks =
            min(min(resident, 2) * device.multiprocessors, in.pairs * panel_count(m.rows));
        launch(device, kernel, dim3(blocks), dim3(kDecodeThreads), shared, m, in, epilogue);
    };
    if (moe_decode_shared_bytes<terms>(kMoeRing, tokens, m.columns) <= device.shared_limit)
        launch_ring(std::integral_constant<int, kMoeRing>());
    else
        launch_ring(std::integral_constant<int, kShortMoeRing>());
}

}  // namespace gptoss::cuda

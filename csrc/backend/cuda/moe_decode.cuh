// The decode form of the experts' products: each chosen expert's weights are read once for every
// few of the rows that chose it.
//
// A unit is an expert and as many of its rows as fill a tile of the matrix unit with their terms.
// The work is the units' panels, in one line, cut into equal stretches for as many blocks as the
// device holds; a block fills its activations when it comes to other rows. Its warps take their
// shares of several panels before their sums meet, since a panel is only three chunks of a warp.
// Bound by the weights' bytes.
#pragma once

#include "backend/cuda/dense_decode.cuh"
#include "backend/cuda/moe_round.cuh"
#include "base/error.h"

namespace gptoss::cuda {

constexpr int kMostChosen = 8;  // experts of a row
constexpr int kMostPairs = kStepRows * kMostChosen;

// Rows of a unit at most: more would be a second tile's, expected to cost about what reading the
// weights a second time does.
template <int terms>
constexpr int kUnitRows = kDecodeRows / terms;

struct ExpertRows {
    const int* expert;     // [pairs]
    const std::byte* own;  // [pairs / slots, columns] activations in the own form
    int pairs;
    int slots;          // pairs that share an input row
    int unit_rows = 0;  // of a unit at most: launch_moe_decode says
};

// The units, in the order of their first pair, in shared memory.
struct Units {
    int pair_expert[kMostPairs];
    int expert[kMostPairs];    // of each unit
    int rank[kMostPairs];      // of each unit's first pair among its expert's
    int chosen[kMostExperts];  // pairs of each expert, where they are counted
    int pair[kDecodeRows];     // of the unit at hand
    int input[kDecodeRows];    // the rows they are of
    int count;                 // units
    int rows;                  // of the unit at hand; 0 before the first
    bool same;                 // as those of the unit before

    // By one warp; a barrier is to follow.
    __device__ void find(const ExpertRows& in, int lane) {
        const bool many = in.pairs > kWarp;
        if (many) {
#pragma unroll 1
            for (int i = lane; i < kMostExperts; i += kWarp) chosen[i] = 0;
        }
        int found = 0;
#pragma unroll 1
        for (int from = 0; from < in.pairs; from += kWarp) {
            const int i = from + lane;
            // Past the first cache, which may hold what another layer's router wrote.
            const int mine = i < in.pairs ? __ldcg(in.expert + i) : -1;
            if (mine >= 0) pair_expert[i] = mine;
            __syncwarp();  // counts of the pairs before are written
            const unsigned alike = __match_any_sync(0xffffffffu, mine);
            const unsigned below = (1u << lane) - 1;
            int before = __popc(alike & below);
            if (many && mine >= 0) before += chosen[mine];
            const bool first = mine >= 0 && before % in.unit_rows == 0;
            const unsigned all = __ballot_sync(0xffffffffu, first);
            if (first) {
                const int unit = found + __popc(all & below);
                expert[unit] = mine;
                rank[unit] = before;
            }
            found += __popc(all);
            __syncwarp();  // counts are read
            if (many && mine >= 0 && (alike & below) == 0) chosen[mine] += __popc(alike);
        }
        if (lane == 0) count = found, rows = 0;
    }

    // Lists the pairs of the unit numbered `index`, by one warp. Between barriers.
    __device__ void take(const ExpertRows& in, int index, int lane) {
        int taken = -rank[index];
        bool differs = false;
#pragma unroll 1
        for (int from = 0; from < in.pairs; from += kWarp) {
            const int i = from + lane;
            const bool here = i < in.pairs && pair_expert[i] == expert[index];
            const unsigned all = __ballot_sync(0xffffffffu, here);
            const int place = taken + __popc(all & ((1u << lane) - 1));
            if (here && place >= 0 && place < in.unit_rows) {
                const int row = i / in.slots;
                differs |= place >= rows || input[place] != row;
                pair[place] = i;
                input[place] = row;
            }
            taken += __popc(all);
        }
        taken = min(taken, in.unit_rows);
        differs = __any_sync(0xffffffffu, differs);
        __syncwarp();
        if (lane == 0) {
            same = !differs && taken == rows;
            rows = taken;
        }
    }
};

constexpr size_t kUnitBytes = (sizeof(Units) + 15) / 16 * 16;

// Copies the rows of the unit at hand; columns that only pad the last chunk become zeros.
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
template <int terms, int ring_bytes>
struct MoeShared {
    std::byte* ring = shared_memory();
    std::byte* sums = ring + ring_bytes;
    Units& units = *reinterpret_cast<Units*>(sums + kDecodeSumBytes<1>);
    std::byte* rows = sums + kDecodeSumBytes<1> + kUnitBytes;
};

template <int terms>
size_t moe_decode_shared_bytes(int ring_bytes, int rows, int columns) {
    constexpr int kColumns = Chunk<Mxfp4Tiles>::kColumns;
    const int padded = (columns + kColumns - 1) / kColumns * kColumns;
    return ring_bytes + kDecodeSumBytes<1> + kUnitBytes + SharedRows<terms>::bytes(rows, padded);
}

// A block's way through its stretch of the units' panels.
struct MoeWay {
    using Tiles = Mxfp4Tiles;
    const Matrix& m;
    const int* expert;  // of each unit
    int panels, index, panel, left;

    __device__ __forceinline__ bool next(Panel& out) {
        if (left-- <= 0) return false;
        if (panel == panels) {
            panel = 0;
            ++index;
        }
        out = panel_of<Tiles>(m, expert[index], panel++);
        return true;
    }
    // An expert's panels lie one behind the other.
    static constexpr bool kFollows = true;
    __device__ __forceinline__ bool follow() {
        if (left <= 0 || panel == panels) return false;
        --left;
        ++panel;
        return true;
    }
};

// Epilogue: as for dense_decode, with the pair for the column; what is prepared must be weights,
// and prefetch(int expert, int panel) asks the second-level cache for it. Then void finish(int
// begin, int end, int panels, int units) by all threads for the block's items.
// Epilogue::kBlocks: so many blocks shall find registers on a multiprocessor where there are no
// more than two terms: the two that it has and what the next kernel's first one takes.
// Epilogue::kChosenBefore says that the experts were chosen before the kernel before this one
// began: it lets the next one start only after it has waited itself.
template <int terms, int ring_bytes, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads, terms <= kFastTerms
                                                 ? Epilogue::kBlocks
                                                 : 2) void moe_decode(Matrix m, ExpertRows in,
                                                                      Epilogue epilogue) {
    using Tiles = Mxfp4Tiles;
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    const int chunks = (steps + Chunk<Tiles>::kSteps - 1) / Chunk<Tiles>::kSteps;
    const MoeShared<terms, ring_bytes> shared;
    const DecodeSums<1> buffers(shared.sums);
    Units& units = shared.units;

    if (!Epilogue::kChosenBefore) wait_for_earlier_kernels();
    if (!Epilogue::kChosenBefore) let_next_kernel_start();
    if (threadIdx.x < kWarp) units.find(in, threadIdx.x);
    __syncthreads();
    const int items = units.count * panels;
    const int begin = static_cast<int>(unsigned(items) * blockIdx.x / gridDim.x);
    const int end = static_cast<int>(unsigned(items) * (blockIdx.x + 1) / gridDim.x);
    int index = begin / panels, panel = begin % panels;
    WeightStream<Tiles, ring_bytes, MoeWay> stream(
        shared.ring, chunks, steps, MoeWay{m, units.expert, panels, index, panel, end - begin});
#pragma unroll 1
    for (int i = begin + threadIdx.x; i < end; i += kDecodeThreads)
        epilogue.prefetch(units.expert[i / panels], i % panels);
    if (Epilogue::kChosenBefore) wait_for_earlier_kernels();
    if (Epilogue::kChosenBefore) let_next_kernel_start();
    int count = 0;
#pragma unroll 1
    for (int left = end - begin; left > 0; left -= count) {
        if (count > 0) __syncthreads();  // the round before is read
        if (count == 0 || panel == panels) {
            if (panel == panels) {
                panel = 0;
                ++index;
            }
            if (threadIdx.x < kWarp) units.take(in, index, threadIdx.x);
            __syncthreads();
            if (!units.same)
                fill_rows(SharedRows<terms>{shared.rows, units.rows}, in, units.input, m.columns,
                          chunks * Chunk<Tiles>::kColumns);
            __syncthreads();
        }
        const SharedRows<terms> rows = {shared.rows, units.rows};
        const Round<terms> round(buffers.sums, units.rows);
        count = min(min(left, panels - panel), round.panels());
        // Of this thread: rows r and r + 8 of a panel in turn, so that one of two has both.
        const int half = threadIdx.x % 2, r = threadIdx.x / 2 % (kTileRows / 2);
        const int place = threadIdx.x / kTileRows;
        const int its_panel = place / rows.rows, its_row = place % rows.rows;
        const bool mine = its_panel < count;
        typename Epilogue::Ready ready = {};
        if (mine && half == 0) ready = epilogue.prepare(units.expert[index], panel + its_panel, r);
        const Operands<1> operands(rows, buffers.zeros, threadIdx.x % kWarp);
#pragma unroll 1
        for (int i = 0; i < count; ++i) {
            float sums[1][4] = {};
            stream.template multiply<terms>(sums, operands);
            round.put(i, sums[0]);
        }
        __syncthreads();
        if (threadIdx.x < kTileSums) {
            const float sum = mine ? round.join(its_panel, r + half * (kTileRows / 2), its_row) : 0;
            const float high = __shfl_down_sync(0xffffffffu, sum, 1);
            if (mine && half == 0)
                epilogue(ready, panel + its_panel, r, units.pair[its_row], sum, high);
        }
        panel += count;
    }
    epilogue.finish(begin, end, panels, units.count);
}

// Rows that a block can hold, kUnitRows at most.
template <int terms>
int moe_unit_rows(const Device& device, int columns) {
    int rows = kUnitRows<terms>;
    while (rows > 1 &&
           moe_decode_shared_bytes<terms>(kShortMoeRing, rows, columns) > device.shared_limit)
        --rows;
    return rows;
}

// Launches over all rows of a step.
template <int terms, class Epilogue>
void launch_moe_decode(const Device& device, const Matrix& m, ExpertRows in, int tokens,
                       const Epilogue& epilogue) {
    if (in.pairs > kMostPairs)
        throw Error(message(in.pairs, " pairs of a decode step, wanted at most ", kMostPairs));
    const int rows = in.unit_rows = min(tokens, moe_unit_rows<terms>(device, m.columns));
    const auto launch_ring = [&](auto ring) {
        constexpr int kRing = ring();
        const auto kernel = moe_decode<terms, kRing, Epilogue>;
        const size_t shared = moe_decode_shared_bytes<terms>(kRing, rows, m.columns);
        const int resident =
            resident_blocks(device, reinterpret_cast<const void*>(kernel), kDecodeThreads, shared);
        const int blocks =
            min(min(resident, 2) * device.multiprocessors, in.pairs * panel_count(m.rows));
        launch(device, kernel, dim3(blocks), dim3(kDecodeThreads), shared, m, in, epilogue);
    };
    if (moe_decode_shared_bytes<terms>(kMoeRing, rows, m.columns) <= device.shared_limit)
        launch_ring(std::integral_constant<int, kMoeRing>());
    else
        launch_ring(std::integral_constant<int, kShortMoeRing>());
}

}  // namespace gptoss::cuda

// The decode form over one bf16 matrix: norm or plain rows in, any epilogue out.
//
// A block takes panels in turn, or shares of their columns where there are few (splits): the last
// block of a panel to arrive then adds the shares in order. The first weights are on their way
// before the block waits for the kernel that makes its input.
#pragma once

#include "backend/cuda/arrive.cuh"
#include "backend/cuda/decode_product.cuh"
#include "backend/cuda/device.h"

namespace gptoss::cuda {

// Shares of columns, and who has brought one. Counters are zero between kernels. Without counters
// the shares are left for the epilogue's finish().
struct Splits {
    int count = 1;
    float* sums = nullptr;        // [panels][count][kTileSums]
    unsigned* arrived = nullptr;  // [panels]
};

// A row of floats as it is.
struct PlainRows {
    const float* x;  // [rows, columns]

    __device__ void prefetch(int) const {}
    template <int terms>
    __device__ void fill(const SharedRows<terms>& out, int begin, int end, int columns,
                         float*) const {
        for (int r = 0; r < out.rows; ++r)
            for (int k = begin + 2 * threadIdx.x; k < end; k += 2 * blockDim.x) {
                const float2 v = *reinterpret_cast<const float2*>(x + size_t(r) * columns + k);
                out.put(r, k - begin, v.x, v.y);
            }
    }
};

// x / sqrt(mean(x^2) + eps) * gain (RMSNorm, arXiv 1910.07467).
struct NormedRows {
    const float* x;     // [.., columns]
    const int* which;   // [rows] of x; null: the first ones
    const float* gain;  // [columns]
    float eps;
    std::byte* keep = nullptr;  // [rows, columns] out, in the own form, in f16 terms, by the first panel's block

    // The gain is a weight: it may come before the rows are there.
    __device__ void prefetch(int columns) const {
        constexpr int kLine = 128 / sizeof(float);
        for (int k = threadIdx.x * kLine; k < columns; k += kDecodeThreads * kLine)
            prefetch_l2(gain + k);
    }
    template <int terms>
    __device__ void fill(const SharedRows<terms>& out, int begin, int end, int columns,
                         float* shared) const {
        float scale[kDecodeRows] = {};
        add_rows(scale, out.rows, columns);
        block_sum(scale, out.rows, shared);
#pragma unroll
        for (int r = 0; r < kDecodeRows; ++r) scale[r] = norm_scale(scale[r], columns, eps);
        put_rows(out, scale, begin, end, columns);
    }

    // Rows whose loads are under way at the same time.
    static constexpr int kTogether = 4;

    __device__ const float* row(int r, int columns) const {
        return x + size_t(which ? which[r] : r) * columns;
    }

    __device__ void add_rows(float (&squares)[kDecodeRows], int rows, int columns) const {
#pragma unroll
        for (int first = 0; first < kDecodeRows; first += kTogether) {
            if (first >= rows) break;
            const float* at[kTogether];
#pragma unroll
            for (int i = 0; i < kTogether; ++i) at[i] = row(min(first + i, rows - 1), columns);
            for (int k = 4 * threadIdx.x; k < columns; k += 4 * kDecodeThreads) {
#pragma unroll
                for (int i = 0; i < kTogether; ++i)
                    if (first + i < rows)
                        squares[first + i] = add_squares(
                            squares[first + i], *reinterpret_cast<const float4*>(at[i] + k));
            }
        }
    }

    template <int terms>
    __device__ void put_rows(const SharedRows<terms>& out, const float (&scale)[kDecodeRows],
                             int begin, int end, int columns) const {
#pragma unroll
        for (int first = 0; first < kDecodeRows; first += kTogether) {
            if (first >= out.rows) break;
            const float* at[kTogether];
#pragma unroll
            for (int i = 0; i < kTogether; ++i) at[i] = row(min(first + i, out.rows - 1), columns);
            for (int k = begin + 2 * threadIdx.x; k < end; k += 2 * kDecodeThreads) {
                const float2 g = *reinterpret_cast<const float2*>(gain + k);
#pragma unroll
                for (int i = 0; i < kTogether; ++i) {
                    const int r = first + i;
                    if (r >= out.rows) break;
                    const float2 v =
                        scaled(*reinterpret_cast<const float2*>(at[i] + k), scale[r], g);
                    out.put(r, k - begin, v.x, v.y);
                    if (keep && blockIdx.x == 0)
                        store_terms<terms, true>(keep + r * own_row_bytes<terms>(columns), columns,
                                                 k, v.x, v.y);
                }
            }
        }
    }
};

// Weights that a block asks the second-level cache for, beyond those it has room for, while it
// waits for its input.
constexpr int kAheadBytes = 96 * 1024;

template <class Tiles>
__device__ __forceinline__ void prefetch_panels(const Matrix& m, int begin, int end) {
    constexpr int kChunkBytes = 1024;
    if (threadIdx.x != 0) return;
    int under_way = kDeepRing, left = kAheadBytes;
    for (int panel = blockIdx.x; panel < panel_count(m.rows) && left > 0; panel += gridDim.x) {
        const int bytes = (end - begin) * kChunkBytes, skipped = min(bytes, under_way);
        const int wanted = min(bytes - skipped, left);
        if (wanted > 0)
            prefetch_l2(panel_of<Tiles>(m, 0, panel).data + begin * kChunkBytes + skipped, wanted);
        under_way -= skipped;
        left -= wanted;
    }
}

// Epilogue: Ready prepare(int expert, int panel, int r, int column) loads what the sums of rows r
// and r + 8 will be joined with, while the weights are on their way; with kReadyEarly, what no
// earlier kernel writes. Then void operator()(const Ready&, int expert, int panel, int r, int column,
// float low, float high) with the sums (expert 0), and void finish() by all threads of every block
// at its end.
template <int terms, int ring_bytes, class Input, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads, 2) void dense_decode(Matrix m, Input input,
                                                                  Epilogue epilogue, Splits splits,
                                                                  int rows) {
    using Tiles = Bf16Tiles;
    let_next_kernel_start();
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    const int begin = steps * blockIdx.y / splits.count;
    const int end = steps * (blockIdx.y + 1) / splits.count;
    std::byte* const shared = shared_memory();
    float* const sums_buffer = reinterpret_cast<float*>(shared + ring_bytes);
    const SharedRows<terms> activations = {shared + ring_bytes + kDecodeSumBytes<terms>, rows};

    const auto panel_at = [&](int panel) { return panel_of<Tiles>(m, 0, panel); };
    WeightStream<Tiles, ring_bytes> stream;
    stream.begin = begin;
    stream.end = end;
    stream.steps = steps;
    stream.start(shared, blockIdx.x, panels, gridDim.x, panel_at);
    if (ring_bytes == kDeepRing) prefetch_panels<Tiles>(m, begin, end);
    input.prefetch(m.columns);
    const SumPlace at = sum_place(threadIdx.x);
    const bool mine = threadIdx.x < kTileSums && at.low && at.column < rows;
    typename Epilogue::Ready ready = {};
    if (mine && Epilogue::kReadyEarly) ready = epilogue.prepare(0, blockIdx.x, at.r, at.column);
    wait_for_earlier_kernels();
    input.fill(activations, begin * Tiles::kColumns, end * Tiles::kColumns, m.columns, sums_buffer);
    __syncthreads();

    int turn = 0;
    for (int panel = blockIdx.x; panel < panels; panel += gridDim.x, ++turn) {
        if (mine && (turn > 0 || !Epilogue::kReadyEarly))
            ready = epilogue.prepare(0, panel, at.r, at.column);
        float sums[terms][4] = {};
        stream.template multiply<terms>(sums, activations, panel_at);
        float* const buffer = sums_buffer + turn % 2 * (kDecodeWarps * terms * kTileSums);
        float sum = join_warps<terms>(sums, buffer, activations);
        bool whole = true;
        if (splits.count > 1) {
            float* const shares = splits.sums + size_t(panel) * splits.count * kTileSums;
            if (threadIdx.x < kTileSums) shares[blockIdx.y * kTileSums + threadIdx.x] = sum;
            whole = splits.arrived && arrive_last(splits.arrived + panel, splits.count);
            if (whole && threadIdx.x < kTileSums) {
                sum = 0;
                for (int s = 0; s < splits.count; ++s)
                    sum += __ldcg(shares + s * kTileSums + threadIdx.x);
            }
        }
        if (threadIdx.x < kTileSums) {
            const float high = __shfl_down_sync(0xffffffffu, sum, 2);
            if (whole && mine) epilogue(ready, 0, panel, at.r, at.column, sum, high);
        }
    }
    epilogue.finish();
}

template <int terms>
size_t dense_decode_shared_bytes(int ring_bytes, int rows, int columns) {
    return ring_bytes + kDecodeSumBytes<terms> + SharedRows<terms>::bytes(rows, columns);
}

// Rows that one launch can hold, of kDecodeRows at most.
template <int terms>
int dense_decode_rows(const Device& device, int columns) {
    int rows = kDecodeRows;
    while (rows > 1 &&
           dense_decode_shared_bytes<terms>(kShallowRing, rows, columns) > device.shared_limit)
        --rows;
    return rows;
}

template <int terms, int ring_bytes, class Input, class Epilogue>
void launch_dense_ring(const Device& device, const Matrix& m, const Input& input,
                       const Epilogue& epilogue, const Splits& splits, int rows, int columns) {
    const auto kernel = dense_decode<terms, ring_bytes, Input, Epilogue>;
    const size_t shared = dense_decode_shared_bytes<terms>(ring_bytes, rows, columns);
    int resident = 1;
    if (ring_bytes != kDeepRing)
        resident =
            resident_blocks(device, reinterpret_cast<const void*>(kernel), kDecodeThreads, shared);
    const int blocks = min(panel_count(m.rows), resident * device.multiprocessors);
    launch(device, kernel, dim3(blocks, splits.count), dim3(kDecodeThreads), shared, m, input,
           epilogue, splits, rows);
}

// Launches over `rows` rows.
template <int terms, class Input, class Epilogue>
void launch_dense_decode(const Device& device, const Matrix& m, const Input& input,
                         const Epilogue& epilogue, const Splits& splits, int rows) {
    const int columns = (m.columns / kTileColumns + splits.count - 1) / splits.count * kTileColumns;
    const bool deep = dense_decode_shared_bytes<terms>(kDeepRing, rows, columns) <=
                      device.shared_limit;
    if (deep)
        launch_dense_ring<terms, kDeepRing>(device, m, input, epilogue, splits, rows, columns);
    else
        launch_dense_ring<terms, kShallowRing>(device, m, input, epilogue, splits, rows, columns);
}

}  // namespace gptoss::cuda

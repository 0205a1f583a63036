// The decode form over one bf16 matrix: norm or plain rows in, any epilogue out.
//
// A block takes a panel, or a share of its columns where there are few panels (splits): the last
// block of a panel to arrive then adds the shares in order. The weights' first loads are under way
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
    std::byte* keep = nullptr;  // [rows, columns] out, in the own form, by the first panel's block

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
                        store_terms<terms>(keep + r * own_row_bytes<terms>(columns), columns, k,
                                           v.x, v.y);
                }
            }
        }
    }
};

// Epilogue: void operator()(int expert, int panel, int r, int column, float low, float high) with
// the sums of rows r and r + 8 (expert 0), then void finish() by all threads of every block at its
// end.
template <int terms, class Input, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads, 2) void dense_decode(Matrix m, Input input,
                                                                  Epilogue epilogue, Splits splits,
                                                                  int rows) {
    using Tiles = Bf16Tiles;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    const int begin = steps * blockIdx.y / splits.count;
    const int end = steps * (blockIdx.y + 1) / splits.count;
    std::byte* const shared = shared_memory();
    float* const sums_buffer = reinterpret_cast<float*>(shared);
    const SharedRows<terms> activations = {shared + kDecodeSumBytes, rows};

    Flight<Tiles> flight;
    flight.load(panel_of<Tiles>(m, 0, blockIdx.x), begin + warp, end, lane);
    input.prefetch(m.columns);
    wait_for_earlier_kernels();
    input.fill(activations, begin * Tiles::kColumns, end * Tiles::kColumns, m.columns, sums_buffer);
    __syncthreads();
    let_next_kernel_start();

    int turn = 0;
    for (int panel = blockIdx.x; panel < panels; panel += gridDim.x, ++turn) {
        float sums[4] = {};
        const int following = panel + gridDim.x;
        const Panel next = panel_of<Tiles>(m, 0, min(following, panels - 1));
        multiply_panel(sums, flight, panel_of<Tiles>(m, 0, panel), following < panels, next, begin,
                       end, activations, warp, lane);
        float* const buffer = sums_buffer + turn % 2 * (kDecodeWarps * kTileSums);
        float sum = join_warps(sums, buffer, warp, lane);
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
            const SumPlace at = sum_place(threadIdx.x);
            if (whole && at.low && at.column < rows) epilogue(0, panel, at.r, at.column, sum, high);
        }
    }
    epilogue.finish();
}

template <int terms>
size_t dense_decode_shared_bytes(int rows, int columns) {
    return kDecodeSumBytes + SharedRows<terms>::bytes(rows, columns);
}

// Rows that one launch can hold, of kDecodeRows at most.
template <int terms>
int dense_decode_rows(const Device& device, int columns) {
    int rows = kDecodeRows;
    while (rows > 1 && dense_decode_shared_bytes<terms>(rows, columns) > device.shared_limit)
        --rows;
    return rows;
}

// Launches over `rows` rows. More panels than fill the device some times over go round in turns,
// so that a block fills its activations but once.
template <int terms, class Input, class Epilogue>
void launch_dense_decode(const Device& device, const Matrix& m, const Input& input,
                         const Epilogue& epilogue, const Splits& splits, int rows) {
    constexpr int kSomeTimes = 8;
    const auto kernel = dense_decode<terms, Input, Epilogue>;
    const int columns = (m.columns / kTileColumns + splits.count - 1) / splits.count * kTileColumns;
    const size_t shared = dense_decode_shared_bytes<terms>(rows, columns);
    const int panels = panel_count(m.rows);
    int blocks = panels;
    if (panels > kSomeTimes * device.multiprocessors)
        blocks =
            device.multiprocessors *
            resident_blocks(device, reinterpret_cast<const void*>(kernel), kDecodeThreads, shared);
    launch(device, kernel, dim3(blocks, splits.count), dim3(kDecodeThreads), shared, m, input,
           epilogue, splits, rows);
}

}  // namespace gptoss::cuda

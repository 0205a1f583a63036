// The decode form over one bf16 matrix: norm or plain rows in, any epilogue out.
//
// A block takes a panel, or a share of its columns where there are few panels (splits): the last
// block of a panel to arrive then adds the shares in order. The weights' first loads are under way
// before the block waits for the kernel that makes its input.
#pragma once

#include "backend/cuda/decode_product.cuh"
#include "backend/cuda/device.h"

namespace gptoss::cuda {

// Shares of columns, and who has brought one. Counters are zero between kernels.
struct Splits {
    int count = 1;
    float* sums = nullptr;   // [panels][count][kTileSums]
    int* arrived = nullptr;  // [panels]
};

// A row of floats as it is.
struct PlainRows {
    const float* x;  // [rows, columns]

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

    template <int terms>
    __device__ void fill(const SharedRows<terms>& out, int begin, int end, int columns,
                         float* shared) const {
        float scale[kDecodeRows];
#pragma unroll
        for (int r = 0; r < kDecodeRows; ++r) {
            if (r >= out.rows) break;
            const float* row = x + size_t(which ? which[r] : r) * columns;
            float sum = 0;
            for (int k = 4 * threadIdx.x; k < columns; k += 4 * blockDim.x) {
                const float4 v = *reinterpret_cast<const float4*>(row + k);
                sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
            }
            scale[r] = sum;
        }
        block_sum(scale, out.rows, shared);
#pragma unroll
        for (int r = 0; r < kDecodeRows; ++r) {
            if (r >= out.rows) break;
            const float* row = x + size_t(which ? which[r] : r) * columns;
            const float s = rsqrtf(scale[r] / static_cast<float>(columns) + eps);
            for (int k = begin + 2 * threadIdx.x; k < end; k += 2 * blockDim.x) {
                const float2 v = *reinterpret_cast<const float2*>(row + k);
                const float2 g = *reinterpret_cast<const float2*>(gain + k);
                const float low = v.x * s * g.x, high = v.y * s * g.y;
                out.put(r, k - begin, low, high);
                if (keep && blockIdx.x == 0)
                    store_terms<terms>(keep + r * own_row_bytes<terms>(columns), columns, k, low,
                                       high);
            }
        }
    }
};

// True in all threads of the block that is the last of `count` to arrive; what the others wrote
// before is visible to it. `flag` is shared.
__device__ __forceinline__ bool arrive_last(int* counter, int count, int* flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *flag = atomicAdd(counter, 1) == count - 1;
        if (*flag) *counter = 0;
    }
    __syncthreads();
    const bool last = *flag;
    if (last) __threadfence();
    return last;
}

// Epilogue: void operator()(int panel, int r, int column, float low, float high) with the sums of
// rows r and r + 8, then void finish(int* flag) by all threads of every block at its end.
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
    int* const flag = reinterpret_cast<int*>(shared + kDecodeSumBytes);
    const SharedRows<terms> activations = {shared + kDecodeSumBytes + 16, rows};

    Flight<Tiles> flight;
    flight.load(panel_of<Tiles>(m, 0, blockIdx.x), begin + warp, end, lane);
    wait_for_earlier_kernels();
    input.fill(activations, begin * Tiles::kColumns, end * Tiles::kColumns, m.columns, sums_buffer);
    __syncthreads();
    let_next_kernel_start();

    int turn = 0;
    for (int panel = blockIdx.x; panel < panels; panel += gridDim.x, ++turn) {
        float sums[4] = {};
        multiply_panel(sums, flight, panel_of<Tiles>(m, 0, panel), begin, end, activations, warp,
                       lane);
        const int following = panel + gridDim.x;
        if (following < panels)
            flight.load(panel_of<Tiles>(m, 0, following), begin + warp, end, lane);
        float* const buffer = sums_buffer + turn % 2 * (kDecodeWarps * kTileSums);
        float sum = join_warps(sums, buffer, warp, lane);
        bool whole = true;
        if (splits.count > 1) {
            float* const shares = splits.sums + size_t(panel) * splits.count * kTileSums;
            if (threadIdx.x < kTileSums) shares[blockIdx.y * kTileSums + threadIdx.x] = sum;
            whole = arrive_last(splits.arrived + panel, splits.count, flag);
            if (whole && threadIdx.x < kTileSums) {
                sum = 0;
                for (int s = 0; s < splits.count; ++s)
                    sum += __ldcg(shares + s * kTileSums + threadIdx.x);
            }
        }
        if (threadIdx.x < kTileSums) {
            const float high = __shfl_down_sync(0xffffffffu, sum, 2);
            const SumPlace at = sum_place(threadIdx.x);
            if (whole && at.low && at.column < rows) epilogue(panel, at.r, at.column, sum, high);
        }
    }
    epilogue.finish(flag);
}

template <int terms>
size_t dense_decode_shared_bytes(int rows, int columns) {
    return kDecodeSumBytes + 16 + SharedRows<terms>::bytes(rows, columns);
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
        blocks = device.multiprocessors *
                 resident_blocks(reinterpret_cast<const void*>(kernel), kDecodeThreads, shared);
    launch(device, kernel, dim3(blocks, splits.count), dim3(kDecodeThreads), shared, m, input,
           epilogue, splits, rows);
}

}  // namespace gptoss::cuda

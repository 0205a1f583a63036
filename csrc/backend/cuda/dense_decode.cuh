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

// Bytes of a block's weights under way: so many that one block a multiprocessor is enough, and that
// the blocks of the kernel that follows fit beside, with theirs; fewer where shared memory is short.
constexpr int kDenseRing = 80 * 1024;
constexpr int kShortDenseRing = 24 * 1024;

// A block's way through a matrix: every so many panels.
struct DenseWay {
    const std::byte* data;  // of the next panel
    int left;               // panels
    size_t stride;          // bytes

    __device__ __forceinline__ DenseWay(const Matrix& m, int begin) {
        const size_t panel_bytes = step_count<Bf16Tiles>(m.columns) * Bf16Tiles::kStepBytes;
        const int panels = panel_count(m.rows), first = blockIdx.x, blocks = gridDim.x;
        data = m.data + first * panel_bytes + begin * Bf16Tiles::kStepBytes;
        left = (panels - first + blocks - 1) / blocks;
        stride = blocks * panel_bytes;
    }
    __device__ __forceinline__ bool next(Panel& panel) {
        if (left-- <= 0) return false;
        panel.data = data;
        data += stride;
        return true;
    }
    // Asks the second-level cache for panels beyond what the ring has room for.
    __device__ __forceinline__ void prefetch(int bytes) const {
        constexpr int kAhead = 96 * 1024;
        int under_way = kDenseRing, wanted = kAhead;
        const std::byte* at = data;
        for (int i = 0; i < left && wanted > 0; ++i, at += stride) {
            const int skipped = min(bytes, under_way), size = min(bytes - skipped, wanted);
            if (size > 0) prefetch_l2(at + skipped, size);
            under_way -= skipped;
            wanted -= size;
        }
    }
};

// Epilogue: Ready prepare(int expert, int panel, int r, int column) loads what the sums of rows r
// and r + 8 will be joined with, while the weights are on their way; with kReadyEarly, what no
// earlier kernel writes. Then void operator()(const Ready&, int expert, int panel, int r, int column,
// float low, float high) with the sums (expert 0), and void finish() by all threads of every block
// at its end.
template <int terms, int groups, int ring_bytes, class Input, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads, 2) void dense_decode(Matrix m, Input input,
                                                                  Epilogue epilogue, Splits splits,
                                                                  int rows) {
    using Tiles = Bf16Tiles;
    let_next_kernel_start();
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    const int begin = steps * blockIdx.y / splits.count;
    const int end = steps * (blockIdx.y + 1) / splits.count;
    std::byte* const shared = shared_memory();
    const DecodeSums<groups> buffers(shared + ring_bytes);
    const SharedRows<terms> activations = {shared + ring_bytes + kDecodeSumBytes<groups>, rows};
    const Operands<groups> operands(activations, buffers.zeros, threadIdx.x % kWarp);

    const DenseWay way(m, begin);
    WeightStream<Tiles, ring_bytes, DenseWay> stream(shared, end - begin, steps, way);
    if (ring_bytes == kDenseRing && threadIdx.x == 0)
        way.prefetch((end - begin) * Tiles::kStepBytes);
    input.prefetch(m.columns);
    const SumPlace at = sum_place(threadIdx.x);
    const bool mine = threadIdx.x < kTileSums && at.low && at.column < rows;
    typename Epilogue::Ready ready = {};
    if (mine && Epilogue::kReadyEarly) ready = epilogue.prepare(0, blockIdx.x, at.r, at.column);
    wait_for_earlier_kernels();
    input.fill(activations, begin * Tiles::kColumns, end * Tiles::kColumns, m.columns,
               buffers.sums);
    __syncthreads();

    int turn = 0;
    for (int panel = blockIdx.x; panel < panels; panel += gridDim.x, ++turn) {
        if (mine && (turn > 0 || !Epilogue::kReadyEarly))
            ready = epilogue.prepare(0, panel, at.r, at.column);
        float sums[groups][4] = {};
        stream.template multiply<terms>(sums, operands);
        float sum = join_warps<terms>(sums, buffers.set(turn), activations);
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
    const size_t sums = group_count<terms>(rows) == 1 ? kDecodeSumBytes<1> : kDecodeSumBytes<terms>;
    return ring_bytes + sums + SharedRows<terms>::bytes(rows, columns);
}

// Rows that one launch can hold, of kDecodeRows at most.
template <int terms>
int dense_decode_rows(const Device& device, int columns) {
    int rows = kDecodeRows;
    while (rows > 1 &&
           dense_decode_shared_bytes<terms>(kShortDenseRing, rows, columns) > device.shared_limit)
        --rows;
    return rows;
}

// Launches over `rows` rows.
template <int terms, class Input, class Epilogue>
void launch_dense_decode(const Device& device, const Matrix& m, const Input& input,
                         const Epilogue& epilogue, const Splits& splits, int rows) {
    const int columns = (m.columns / kTileColumns + splits.count - 1) / splits.count * kTileColumns;
    const bool one = group_count<terms>(rows) == 1;
    const auto launch_ring = [&](auto ring) {
        constexpr int kRing = ring();
        const auto kernel = one ? dense_decode<terms, 1, kRing, Input, Epilogue>
                                : dense_decode<terms, terms, kRing, Input, Epilogue>;
        const size_t shared = dense_decode_shared_bytes<terms>(kRing, rows, columns);
        int resident = 1;
        if (kRing != kDenseRing)
            resident = resident_blocks(device, reinterpret_cast<const void*>(kernel),
                                       kDecodeThreads, shared);
        const int blocks = min(panel_count(m.rows), resident * device.multiprocessors);
        launch(device, kernel, dim3(blocks, splits.count), dim3(kDecodeThreads), shared, m, input,
               epilogue, splits, rows);
    };
    if (dense_decode_shared_bytes<terms>(kDenseRing, rows, columns) <= device.shared_limit)
        launch_ring(std::integral_constant<int, kDenseRing>());
    else
        launch_ring(std::integral_constant<int, kShortDenseRing>());
}

}  // namespace gptoss::cuda

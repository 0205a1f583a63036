// The decode form over one matrix of bf16 or int8: norm or plain rows in, any epilogue out.
//
// A block takes panels in turn, or shares of their columns where there are few (splits). The first
// weights are on their way before the block waits for the kernel that makes its input.
#pragma once

#include "backend/cuda/decode_product.cuh"
#include "backend/cuda/device.h"

namespace gptoss::cuda {

// Shares of columns that blocks take, whose sums are left for the epilogue's finish().
struct Splits {
    int count = 1;
    float* sums = nullptr;  // [panels][count][kTileSums]
};

// How a block's warps share the making of its activation rows. Each row is made in eight parts, as
// many as there are warps, whose sums are added in one order: a row's bits do not depend on how
// many there are. A lane has four columns in a row of every 1024. Loops over parts are kept as
// loops: a kernel's first pass is bound by fetching its instructions.
constexpr int kFourStride = 4 * kDecodeThreads;
constexpr int kFours = 3;  // loads under way at once

struct RowParts {
    int row, part;  // this warp's first
    int stride;     // from part to part

    __device__ explicit RowParts(int rows) {
        const int warp = threadIdx.x / kWarp;
        const int warps = rows > 4 ? 1 : rows > 2 ? 2 : rows > 1 ? 4 : 8;  // a row
        row = warp / warps;
        part = warp % warps;
        stride = warps;
    }
    __device__ static int first_column(int part) {
        return 4 * (part * kWarp + static_cast<int>(threadIdx.x % kWarp));
    }
};

__device__ __forceinline__ float4 load_four(const float* row, int k, int end) {
    return k < end ? *reinterpret_cast<const float4*>(row + k) : make_float4(0, 0, 0, 0);
}

// A row of floats as it is.
struct PlainRows {
    struct Early {};
    const float* x;  // [rows, columns]

    __device__ Early early(int, int, int) const { return {}; }
    template <int terms, bool f16>
    __device__ void fill(const SharedRows<terms, f16>& out, Early, int begin, int end, int columns,
                         float*) const {
        constexpr int kOnce = kFours + 1;  // 4096 columns
        const RowParts parts(out.rows);
        if (parts.row >= out.rows) return;
        const float* row = x + size_t(parts.row) * columns;
#pragma unroll 1
        for (int part = parts.part; part < kDecodeWarps; part += parts.stride) {
#pragma unroll 1
            for (int k = begin + RowParts::first_column(part); k < end; k += kOnce * kFourStride) {
                float4 v[kOnce];
#pragma unroll
                for (int i = 0; i < kOnce; ++i) v[i] = load_four(row, k + i * kFourStride, end);
#pragma unroll
                for (int i = 0; i < kOnce; ++i)
                    if (k + i * kFourStride < end)
                        out.put_four(parts.row, k + i * kFourStride - begin, v[i]);
            }
        }
    }
};

// x / sqrt(mean(x^2) + eps) * gain (RMSNorm, arXiv 1910.07467). With kKeep the first panel's block
// also writes the rows to `kept`, in f16 terms.
template <bool kKeep>
struct NormedRows {
    // A weight: it may come before the rows are there. Of a warp's first part.
    struct Early {
        float4 gain[kFours];
    };
    const float* x;     // [.., columns]
    const int* which;   // [rows] of x; null: the first ones
    const float* gain;  // [columns]
    float eps;
    std::byte* kept = nullptr;  // [rows, columns]

    __device__ Early early(int begin, int end, int rows) const {
        Early out;
        const int k = begin + RowParts::first_column(RowParts(rows).part);
#pragma unroll
        for (int i = 0; i < kFours; ++i) out.gain[i] = load_four(gain, k + i * kFourStride, end);
        return out;
    }

    template <int terms, bool f16>
    __device__ void fill(const SharedRows<terms, f16>& out, const Early& first, int begin, int end,
                         int columns, float* shared) const {
        const RowParts parts(out.rows);
        const bool mine = parts.row < out.rows;
        const int r = min(parts.row, out.rows - 1);
        const float* row = x + size_t(which ? which[r] : r) * columns;
#pragma unroll 1
        for (int part = parts.part; part < kDecodeWarps; part += parts.stride) {
            float squares = add_part(row, part, columns);
#pragma unroll
            for (int offset = kWarp / 2; offset > 0; offset /= 2)
                squares += __shfl_xor_sync(0xffffffffu, squares, offset);
            if (mine && threadIdx.x % kWarp == 0) shared[r * kDecodeWarps + part] = squares;
        }
        __syncthreads();
        if (!mine) return;
        float sum = 0;
#pragma unroll
        for (int part = 0; part < kDecodeWarps; ++part) sum += shared[r * kDecodeWarps + part];
        const float scale = norm_scale(sum, columns, eps);
#pragma unroll 1
        for (int part = parts.part; part < kDecodeWarps; part += parts.stride)
            put_part(out, row, first, part == parts.part, r, scale,
                     begin + parts.first_column(part), begin, end, columns);
    }

    __device__ static float add_part(const float* row, int part, int columns) {
        float out = 0;
#pragma unroll 1
        for (int k = RowParts::first_column(part); k < columns; k += kFours * kFourStride) {
            float4 v[kFours];
#pragma unroll
            for (int i = 0; i < kFours; ++i) v[i] = load_four(row, k + i * kFourStride, columns);
#pragma unroll
            for (int i = 0; i < kFours; ++i) out = add_squares(out, v[i]);
        }
        return out;
    }

    template <int terms, bool f16>
    __device__ void put_part(const SharedRows<terms, f16>& out, const float* row,
                             const Early& first, bool early, int r, float scale, int from,
                             int begin, int end, int columns) const {
#pragma unroll 1
        for (int k = from; k < end; k += kFours * kFourStride, early = false) {
            float4 v[kFours], g[kFours];
#pragma unroll
            for (int i = 0; i < kFours; ++i) {
                v[i] = load_four(row, k + i * kFourStride, end);
                g[i] = early ? first.gain[i] : load_four(gain, k + i * kFourStride, end);
            }
#pragma unroll
            for (int i = 0; i < kFours; ++i) {
                const int at = k + i * kFourStride;
                if (at >= end) break;
                const float2 low = scaled({v[i].x, v[i].y}, scale, {g[i].x, g[i].y});
                const float2 high = scaled({v[i].z, v[i].w}, scale, {g[i].z, g[i].w});
                out.put_four(r, at - begin, make_float4(low.x, low.y, high.x, high.y));
                if (kKeep && blockIdx.x == 0) {
                    std::byte* own = kept + r * own_row_bytes<terms>(columns);
                    store_terms<terms, true>(own, columns, at, low.x, low.y);
                    store_terms<terms, true>(own, columns, at + 2, high.x, high.y);
                }
            }
        }
    }
};

// Bytes of a block's weights under way: so many that one block a multiprocessor is enough, and that
// the blocks of the kernel that follows fit beside, with theirs; fewer where shared memory is
// short.
constexpr int kDenseRing = 80 * 1024;
constexpr int kShortDenseRing = 24 * 1024;

// A block's way through a matrix: every so many panels.
template <class Tiles>
struct DenseWay {
    static constexpr size_t kScaleShare =  // bytes of data for one of scales
        Tiles::kStepScaleBytes ? Tiles::kStepBytes / Tiles::kStepScaleBytes : 0;

    const std::byte *data, *scales;  // of the next panel
    int left;                        // panels
    size_t stride;                   // bytes

    __device__ __forceinline__ DenseWay(const Matrix& m, int begin) {
        const size_t panel_bytes = step_count<Tiles>(m.columns) * Tiles::kStepBytes;
        const int panels = panel_count(m.rows), first = blockIdx.x, blocks = gridDim.x;
        data = m.data + first * panel_bytes + begin * Tiles::kStepBytes;
        if constexpr (kScaleShare > 0) scales = m.scales + (data - m.data) / kScaleShare;
        left = (panels - first + blocks - 1) / blocks;
        stride = blocks * panel_bytes;
    }
    __device__ __forceinline__ bool next(Panel& panel) {
        if (left-- <= 0) return false;
        panel.data = data;
        data += stride;
        if constexpr (kScaleShare > 0) {
            panel.scales = scales;
            scales += stride / kScaleShare;
        }
        return true;
    }
    static constexpr bool kFollows = false;
    // Asks the second-level cache for panels, `bytes` of each, beyond the first `ring` bytes.
    __device__ __forceinline__ void prefetch(int bytes, int ring) const {
        constexpr int kAhead = 96 * 1024;
        prefetch_part(data, bytes, stride, ring, kAhead);
        if constexpr (kScaleShare > 0) {
            constexpr int kShare = kScaleShare;
            prefetch_part(scales, bytes / kShare, stride / kShare, ring / kShare, kAhead / kShare);
        }
    }
    __device__ __forceinline__ void prefetch_part(const std::byte* at, int bytes, size_t stride,
                                                  int under_way, int wanted) const {
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
// earlier kernel writes. Then void operator()(const Ready&, int expert, int panel, int r, int
// column, float low, float high) with the sums (expert 0), or with kSplits void finish() by all
// threads of every block once the shares are in memory.
template <class Tiles, int terms, int groups, int ring_bytes, class Input, class Epilogue>
__global__ __launch_bounds__(kDecodeThreads, 2) void dense_decode(Matrix m, Input input,
                                                                  Epilogue epilogue, Splits splits,
                                                                  int rows) {
    const int steps = step_count<Tiles>(m.columns), panels = panel_count(m.rows);
    const int begin = Epilogue::kSplits ? steps * blockIdx.y / splits.count : 0;
    const int end = Epilogue::kSplits ? steps * (blockIdx.y + 1) / splits.count : steps;
    std::byte* const shared = shared_memory();
    const DecodeSums<groups> buffers(shared + ring_bytes);
    const SharedRows<terms, kF16Rows<Tiles, terms>> activations = {
        shared + ring_bytes + kDecodeSumBytes<groups>, rows};
    const Operands<groups> operands(activations, buffers.zeros, threadIdx.x % kWarp);

    using Piece = Chunk<Tiles>;
    static_assert(Piece::kSteps == 1 || !Epilogue::kSplits, "a share would end within a chunk");
    const int chunks = (end - begin + Piece::kSteps - 1) / Piece::kSteps;
    const DenseWay<Tiles> way(m, begin);
    WeightStream<Tiles, ring_bytes, DenseWay<Tiles>> stream(shared, chunks, steps, way);
    if (ring_bytes == kDenseRing && threadIdx.x == 0)
        way.prefetch((end - begin) * Tiles::kStepBytes, stream.kSlots * kDecodeWarps * 1024);
    const auto early = input.early(begin * Tiles::kColumns, end * Tiles::kColumns, rows);
    const SumPlace at = sum_place(threadIdx.x);
    const bool mine = threadIdx.x < kTileSums && at.low && at.column < rows;

    int turn = 0;
#pragma unroll 1
    for (int panel = blockIdx.x; panel < panels; panel += gridDim.x, ++turn) {
        typename Epilogue::Ready ready = {};
        if (mine && Epilogue::kReadyEarly) ready = epilogue.prepare(0, panel, at.r, at.column);
        if (turn == 0) {
            wait_for_earlier_kernels();
            // Not before: blocks of the next kernel are to find the room that one block of this
            // leaves on every multiprocessor, not that beside earlier kernels.
            let_next_kernel_start();
            input.fill(activations, early, begin * Tiles::kColumns, end * Tiles::kColumns,
                       m.columns, buffers.sums);
            if (Piece::kSteps > 1 && steps % Piece::kSteps != 0) activations.clear_tile(steps);
            __syncthreads();
        }
        if (mine && !Epilogue::kReadyEarly) ready = epilogue.prepare(0, panel, at.r, at.column);
        float sums[groups][4] = {};
        stream.template multiply<terms>(sums, operands);
        float sum = join_warps<terms>(sums, buffers.set(turn), activations);
        if constexpr (kF16Rows<Tiles, terms>) sum *= Tiles::kF16Unit;
        if (Epilogue::kSplits) {
            float* const shares = splits.sums + size_t(panel) * splits.count * kTileSums;
            if (threadIdx.x < kTileSums) shares[blockIdx.y * kTileSums + threadIdx.x] = sum;
        } else if (threadIdx.x < kTileSums) {
            const float high = __shfl_down_sync(0xffffffffu, sum, 2);
            if (mine) epilogue(ready, 0, panel, at.r, at.column, sum, high);
        }
    }
    if constexpr (Epilogue::kSplits) epilogue.finish();
}

template <class Tiles, int terms>
size_t dense_decode_shared_bytes(int ring_bytes, int rows, int columns) {
    constexpr int kColumns = Chunk<Tiles>::kColumns;
    const int padded = (columns + kColumns - 1) / kColumns * kColumns;
    const size_t sums = group_count<terms>(rows) == 1 ? kDecodeSumBytes<1> : kDecodeSumBytes<terms>;
    return ring_bytes + sums + SharedRows<terms>::bytes(rows, padded);
}

// Calls use with the tiles of dense weights and the number of terms.
template <class Use>
void with_dense_terms(WeightFormat format, Precision precision, Use use) {
    with_dense_tiles(
        format, [&](auto tiles) { with_terms(precision, [&](auto terms) { use(tiles, terms); }); });
}

// Rows that one launch can hold, of kDecodeRows at most.
template <class Tiles, int terms>
int dense_decode_rows(const Device& device, int columns) {
    int rows = kDecodeRows;
    while (rows > 1 && dense_decode_shared_bytes<Tiles, terms>(kShortDenseRing, rows, columns) >
                           device.shared_limit)
        --rows;
    return rows;
}

// Launches over `rows` rows.
template <class Tiles, int terms, class Input, class Epilogue>
void launch_dense_decode(const Device& device, const Matrix& m, const Input& input,
                         const Epilogue& epilogue, const Splits& splits, int rows) {
    const int columns = (m.columns / kTileColumns + splits.count - 1) / splits.count * kTileColumns;
    const bool one = group_count<terms>(rows) == 1;
    const auto launch_ring = [&](auto ring) {
        constexpr int kRing = ring();
        const auto kernel = one ? dense_decode<Tiles, terms, 1, kRing, Input, Epilogue>
                                : dense_decode<Tiles, terms, terms, kRing, Input, Epilogue>;
        const size_t shared = dense_decode_shared_bytes<Tiles, terms>(kRing, rows, columns);
        int resident = 1;
        if (kRing != kDenseRing)
            resident = resident_blocks(device, reinterpret_cast<const void*>(kernel),
                                       kDecodeThreads, shared);
        const int blocks = min(panel_count(m.rows), resident * device.multiprocessors);
        launch(device, kernel, dim3(blocks, splits.count), dim3(kDecodeThreads), shared, m, input,
               epilogue, splits, rows);
    };
    if (dense_decode_shared_bytes<Tiles, terms>(kDenseRing, rows, columns) <= device.shared_limit)
        launch_ring(std::integral_constant<int, kDenseRing>());
    else
        launch_ring(std::integral_constant<int, kShortDenseRing>());
}

}  // namespace gptoss::cuda

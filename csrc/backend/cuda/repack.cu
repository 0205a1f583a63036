#include "backend/cuda/repack.cuh"

#include "backend/cuda/device.h"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;

// The row of the piece that stands in row r of a panel; -1 past the matrix's end.
__device__ __forceinline__ int row_in_piece(const Piece& p, int panel, int r) {
    const int row = published_row(p.order, p.head_dim, p.first_row / kTileRows + panel, r);
    return row < p.matrix_rows ? row - p.first_row : -1;
}

__device__ __forceinline__ uint4 load_row(const std::byte* rows, int row, size_t row_bytes,
                                          size_t at) {
    if (row < 0) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(rows + row * row_bytes + at);
}

// A thread a lane of a tile.
__global__ __launch_bounds__(kThreads) void repack_bf16_kernel(const std::byte* rows, Piece p) {
    const int tiles = p.columns / kTileColumns;
    const int panels = panel_count(p.rows);
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= int64_t{panels} * tiles * kWarp) return;
    const int lane = static_cast<int>(i % kWarp), tile = static_cast<int>(i / kWarp % tiles);
    const int panel = static_cast<int>(i / kWarp / tiles);
    const size_t at = (size_t(tile) * kTileColumns + lane % 4 * 8) * 2;
    const size_t row_bytes = size_t(p.columns) * 2;
    const uint4 low = load_row(rows, row_in_piece(p, panel, lane / 4), row_bytes, at);
    const uint4 high = load_row(rows, row_in_piece(p, panel, lane / 4 + 8), row_bytes, at);
    const size_t first_panel = p.first_row / kTileRows;
    std::byte* out = p.out + ((first_panel + panel) * tiles + tile) * Bf16Tiles::kStepBytes;
    reinterpret_cast<uint4*>(out)[lane] = make_uint4(low.x, high.x, low.y, high.y);
    reinterpret_cast<uint4*>(out + 512)[lane] = make_uint4(low.z, high.z, low.w, high.w);
}

// 32 weights in steps of a bf16 scale, as the processor has them (pack_int8 of the CPU backend),
// bit for bit.
struct RoundedBlock {
    uint32_t words[8];  // by column: values + Int8Tiles::kZero
    uint32_t scale;     // bf16
    float error = 0, weight = 0;

    __device__ explicit RoundedBlock(const float (&w)[kTileColumns]) {
        constexpr float kTiny = 1e-30f, kMost = 127;
        float largest = 0, poison = 0;  // NaN where a weight is not finite: then the scale is
#pragma unroll
        for (const float value : w) {
            largest = fmaxf(largest, fabsf(value));
            poison += __fsub_rn(value, value);
        }
        // Rounded up to bf16, so that the largest value still fits in 127 steps.
        const uint32_t wanted = __float_as_uint(__fdiv_rn(largest, kMost));
        uint32_t step = (wanted + 0x7fffu + (wanted >> 16 & 1u)) & 0xffff0000u;
        if (__fmul_rn(__uint_as_float(step), kMost) < largest) step += 0x10000u;
        const bool nothing = largest < kTiny;
        const float size = nothing ? 0 : __uint_as_float(step);
        const float steps = nothing ? 0 : __fdiv_rn(1, size);
        scale = __float_as_uint(__fadd_rn(size, poison)) >> 16;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            words[i] = 0;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float value = w[4 * i + j];
                const int q = __float2int_rn(fminf(kMost, fmaxf(-kMost, __fmul_rn(value, steps))));
                words[i] |= static_cast<uint32_t>(q + Int8Tiles::kZero) << (8 * j);
                const float lost = __fsub_rn(__fmul_rn(static_cast<float>(q), size), value);
                error += lost * lost;
                weight += value * value;
            }
        }
    }
};

__device__ __forceinline__ double warp_sum(double value) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// A thread a row of a tile.
__global__ __launch_bounds__(kThreads) void repack_int8_kernel(const std::byte* rows, Piece p,
                                                               std::byte* scales,
                                                               SquaredError* squared) {
    const int tiles = p.columns / kTileColumns;
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    const bool there = i < int64_t{panel_count(p.rows)} * tiles * kTileRows;
    const int r = static_cast<int>(i % kTileRows), tile = static_cast<int>(i / kTileRows % tiles);
    const int panel = static_cast<int>(i / kTileRows / tiles);
    const int row = there ? row_in_piece(p, panel, r) : -1;
    float w[kTileColumns];
#pragma unroll
    for (int k = 0; k < kTileColumns; k += 8) {
        const uint4 v =
            load_row(rows, row, size_t(p.columns) * 2, (size_t(tile) * kTileColumns + k) * 2);
        const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            w[k + 2 * j] = __uint_as_float(pairs[j] << 16);
            w[k + 2 * j + 1] = __uint_as_float(pairs[j] & 0xffff0000u);
        }
    }
    const RoundedBlock block(w);
    const double error = warp_sum(block.error), weight = warp_sum(block.weight);
    if (threadIdx.x % kWarp == 0) {
        atomicAdd(&squared->error, error);
        atomicAdd(&squared->weight, weight);
    }
    if (!there) return;
    const size_t step = size_t(p.first_row / kTileRows + panel) * tiles + tile;
    const int g = r % 8, high = r / 8;
    auto* out = reinterpret_cast<uint32_t*>(p.out + step * Int8Tiles::kStepBytes);
#pragma unroll
    for (int n = 0; n < 8; ++n) out[(4 * g + n / 2) * 4 + n % 2 * 2 + high] = block.words[n];
    auto* to = reinterpret_cast<uint16_t*>(scales + step * Int8Tiles::kStepScaleBytes);
    to[2 * g + high] = static_cast<uint16_t>(block.scale);
}

// Four published bytes, eight values low nibble first, in the order that Mxfp4Tiles reads.
__device__ __forceinline__ uint32_t interleave(uint32_t w) {
    constexpr int kSign[4] = {15, 12, 14, 13};
    uint32_t out = 0;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint32_t value = w >> (8 * p + 4 * half) & 0xfu;
            out |= (value & 7u) << (16 * half + 9 - 3 * p);
            out |= (value >> 3) << (16 * half + kSign[p]);
        }
    }
    return out;
}

// A thread a lane of a step.
__global__ __launch_bounds__(kThreads) void repack_mxfp4_kernel(const std::byte* blocks, Piece p) {
    const int steps = step_count<Mxfp4Tiles>(p.columns), tiles = p.columns / kTileColumns;
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= int64_t{panel_count(p.rows)} * steps * kWarp) return;
    const int lane = static_cast<int>(i % kWarp), step = static_cast<int>(i / kWarp % steps);
    const int panel = static_cast<int>(i / kWarp / steps);
    uint32_t word[4];
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        const int row = row_in_piece(p, panel, lane / 4 + part % 2 * 8);
        const int tile = 2 * step + part / 2;
        const size_t at = (size_t(max(row, 0)) * tiles + tile) * 16 + lane % 4 * 4;
        const bool there = row >= 0 && tile < tiles;
        word[part] = there ? interleave(*reinterpret_cast<const uint32_t*>(blocks + at)) : 0;
    }
    const size_t first_panel = p.first_row / kTileRows;
    std::byte* out = p.out + ((first_panel + panel) * steps + step) * Mxfp4Tiles::kStepBytes;
    reinterpret_cast<uint4*>(out)[lane] = make_uint4(word[0], word[1], word[2], word[3]);
}

// A thread a byte of a step's 32.
__global__ __launch_bounds__(kThreads) void repack_scales_kernel(const std::byte* scales, Piece p) {
    constexpr int kBytes = Mxfp4Tiles::kStepScaleBytes;
    const int steps = step_count<Mxfp4Tiles>(p.columns), tiles = p.columns / kTileColumns;
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= int64_t{panel_count(p.rows)} * steps * kBytes) return;
    const int at = static_cast<int>(i % kBytes), step = static_cast<int>(i / kBytes % steps);
    const int panel = static_cast<int>(i / kBytes / steps);
    const int row = row_in_piece(p, panel, at / 4 + at % 2 * 8), tile = 2 * step + at % 4 / 2;
    int scale = 127;
    if (row >= 0 && tile < tiles) scale = static_cast<int>(scales[size_t(row) * tiles + tile]);
    const size_t first_panel = p.first_row / kTileRows;
    p.out[((first_panel + panel) * steps + step) * kBytes + at] =
        static_cast<std::byte>(scale + Mxfp4Tiles::kScaleShift);
}

// On a loading thread's own stream: a plain launch, without the early start of stages.
template <class... More>
void launch_pieces(cudaStream_t stream, void (*kernel)(const std::byte*, Piece, More...),
                   int64_t threads, const std::byte* from, const Piece& piece, More... more) {
    Device device;
    device.stream = stream;
    launch(device, kernel, dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)),
           dim3(kThreads), 0, from, piece, more...);
}

}  // namespace

void repack_bf16(cudaStream_t stream, const std::byte* rows, const Piece& p) {
    launch_pieces(stream, repack_bf16_kernel,
                  int64_t{panel_count(p.rows)} * (p.columns / kTileColumns) * kWarp, rows, p);
}

void repack_int8(cudaStream_t stream, const std::byte* rows, const Piece& p, std::byte* scales,
                 SquaredError* squared) {
    launch_pieces(stream, repack_int8_kernel,
                  int64_t{panel_count(p.rows)} * (p.columns / kTileColumns) * kTileRows, rows, p,
                  scales, squared);
}

void repack_mxfp4(cudaStream_t stream, const std::byte* blocks, const Piece& p) {
    launch_pieces(stream, repack_mxfp4_kernel,
                  int64_t{panel_count(p.rows)} * step_count<Mxfp4Tiles>(p.columns) * kWarp, blocks,
                  p);
}

void repack_scales(cudaStream_t stream, const std::byte* scales, const Piece& p) {
    launch_pieces(stream, repack_scales_kernel,
                  int64_t{panel_count(p.rows)} * step_count<Mxfp4Tiles>(p.columns) *
                      int64_t{Mxfp4Tiles::kStepScaleBytes},
                  scales, p);
}

}  // namespace gptoss::cuda

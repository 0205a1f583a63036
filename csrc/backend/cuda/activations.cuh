// Activations as the matrix units take them: a float as a sum of bf16 terms, two for 16 bits of
// it, three for all 24. In a backend's own form a row is [terms][columns]; that of the prefill form
// is in prefill_form.cuh.
#pragma once

#include <type_traits>

#include "backend/cuda/ptx.cuh"
#include "backend/cuda/tiles.cuh"

namespace gptoss::cuda {

constexpr int kFastTerms = 2;
constexpr int kExactTerms = 3;

// Calls use with the number of terms as a constant.
template <class Use>
void with_terms(Precision precision, Use use) {
    if (precision == Precision::kExact)
        use(std::integral_constant<int, kExactTerms>());
    else
        use(std::integral_constant<int, kFastTerms>());
}

// The first `terms` bf16 terms of two floats, largest first.
template <int terms>
__device__ __forceinline__ void split(float low, float high, uint32_t (&out)[terms]) {
#pragma unroll
    for (int i = 0; i < terms; ++i) {
        out[i] = pack_bf16(low, high);
        low -= __uint_as_float(out[i] << 16);
        high -= __uint_as_float(out[i] & 0xffff0000u);
    }
}

// The same of f16 terms: 11 bits each, of values below 2^16.
template <int terms>
__device__ __forceinline__ void split_f16(float low, float high, uint32_t (&out)[terms]) {
#pragma unroll
    for (int i = 0; i < terms; ++i) {
        out[i] = pack_f16(low, high);
        const float2 part = unpack_f16(out[i]);
        low -= part.x;
        high -= part.y;
    }
}

// A step's activations in shared memory: [columns / 32][columns of the matrix unit][32], a column
// for each term and row. A lane's operand of both products of a tile is 16 bytes in a row, and a
// warp reads 512 without bank conflicts. f16: of which terms put_four() makes them.
template <int terms, bool f16 = false>
struct SharedRows {
    std::byte* data;
    int rows;

    __host__ __device__ static constexpr size_t bytes(int rows, int columns) {
        return size_t(columns) * terms * rows * 2;
    }
    // Which of the matrix unit's columns; eight make a group.
    __device__ int column(int term, int row) const { return term * rows + row; }
    __device__ int tile_bytes() const { return terms * rows * (kTileColumns * 2); }
    __device__ std::byte* at(int tile, int term, int row) const {
        return data + tile * tile_bytes() + column(term, row) * (kTileColumns * 2);
    }
    // Columns k to k + 3 of a row.
    __device__ void put_four(int row, int k, float4 v) const {
        uint32_t low[terms], high[terms];
        if constexpr (f16) {
            split_f16<terms>(v.x, v.y, low);
            split_f16<terms>(v.z, v.w, high);
        } else {
            split<terms>(v.x, v.y, low);
            split<terms>(v.z, v.w, high);
        }
#pragma unroll
        for (int i = 0; i < terms; ++i)
            *reinterpret_cast<uint2*>(at(k / kTileColumns, i, row) + k % kTileColumns * 2) =
                make_uint2(low[i], high[i]);
    }
    // Makes a tile past the last column zeros, by all threads.
    __device__ void clear_tile(int tile) const {
        for (int i = threadIdx.x; i < tile_bytes() / 16; i += blockDim.x)
            reinterpret_cast<uint4*>(data + tile * tile_bytes())[i] = make_uint4(0, 0, 0, 0);
    }
};

// Groups that so many rows make: a kernel is made for one and for all that there can be.
template <int terms>
__host__ __device__ constexpr int group_count(int rows) {
    return terms * rows <= kDecodeRows ? 1 : terms;
}

// Where a lane's operands lie. Those of columns that no row has are zeros.
template <int groups>
struct Operands {
    const std::byte* first[groups];  // of tile 0
    int stride[groups];              // bytes from tile to tile

    // `zeros` are 64 bytes of shared memory.
    template <int terms, bool f16>
    __device__ __forceinline__ Operands(const SharedRows<terms, f16>& rows, const std::byte* zeros,
                                        int lane) {
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            const int column = g * kDecodeRows + lane / 4;
            const bool there = column < terms * rows.rows;
            first[g] = (there ? rows.data + column * (kTileColumns * 2) : zeros) + lane % 4 * 16;
            stride[g] = there ? rows.tile_bytes() : 0;
        }
    }
    __device__ __forceinline__ uint4 load(int tile, int group) const {
        return *reinterpret_cast<const uint4*>(first[group] + tile * stride[group]);
    }
};

// Columns k and k + 1 of a row in the backend's own form; what moe_decode.cuh reads is of f16
// terms.
template <int terms, bool f16 = false>
__device__ __forceinline__ void store_terms(std::byte* row, int columns, int k, float low,
                                            float high) {
    uint32_t parts[terms];
    if constexpr (f16)
        split_f16<terms>(low, high, parts);
    else
        split<terms>(low, high, parts);
#pragma unroll
    for (int i = 0; i < terms; ++i)
        *reinterpret_cast<uint32_t*>(row + (size_t(i) * columns + k) * 2) = parts[i];
}

template <int terms>
__host__ __device__ constexpr size_t own_row_bytes(int columns) {
    return size_t(columns) * terms * 2;
}

__device__ __forceinline__ void add_part(float (&sums)[4], const float (&part)[4], NoScale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += part[i];
}

__device__ __forceinline__ void add_part(float (&sums)[4], const float (&part)[4],
                                         RowScales scale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = fmaf(i < 2 ? scale.x : scale.y, part[i], sums[i]);
}

// sums += a tile of weights times rows, term by term. The matrix unit rounds to zero each time it
// adds to a sum, always the same way. Three terms promise more than that leaves of a long sum: they
// start from nothing for each tile, smallest first, and a rounding addition follows; a scale comes
// in there.
template <int terms, class Operand, class Scale = NoScale>
__device__ __forceinline__ void multiply_terms(float (&sums)[4], const uint32_t (&a)[2][4],
                                               Operand operand, Scale scale = {}) {
    if constexpr (terms <= kFastTerms) {
        static_assert(std::is_same_v<Scale, NoScale>);
#pragma unroll
        for (int term = 0; term < terms; ++term) {
            const uint4 b = operand(term);
            mma_bf16(sums, a[0], b.x, b.y);
            mma_bf16(sums, a[1], b.z, b.w);
        }
    } else {
        float part[4] = {};
#pragma unroll
        for (int term = terms - 1; term >= 0; --term) {
            const uint4 b = operand(term);
            mma_bf16(part, a[0], b.x, b.y);
            mma_bf16(part, a[1], b.z, b.w);
        }
        add_part(sums, part, scale);
    }
}

// The norm's pieces (RMSNorm, arXiv 1910.07467), with every rounding named: a row's bits must not
// depend on what a compiler contracts in one copy of a loop and not in another.
__device__ __forceinline__ float add_squares(float sum, float4 v) {
    return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

__device__ __forceinline__ float norm_scale(float squares, int columns, float eps) {
    return rsqrtf(__fadd_rn(__fdiv_rn(squares, static_cast<float>(columns)), eps));
}

__device__ __forceinline__ float2 scaled(float2 v, float scale, float2 gain) {
    return make_float2(__fmul_rn(__fmul_rn(v.x, scale), gain.x),
                       __fmul_rn(__fmul_rn(v.y, scale), gain.y));
}

// The sum over a block of `rows` values at once, to every thread; `shared` is [warps][rows].
// kMost is the most rows there may be.
template <int kMost>
__device__ __forceinline__ void block_sum(float (&values)[kMost], int rows, float* shared) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
#pragma unroll
    for (int r = 0; r < kMost; ++r) {
        if (r >= rows) break;
        for (int offset = kWarp / 2; offset > 0; offset /= 2)
            values[r] += __shfl_xor_sync(0xffffffffu, values[r], offset);
        if (lane == 0) shared[warp * rows + r] = values[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kMost; ++r) {
        if (r >= rows) break;
        values[r] = 0;
        for (int w = 0; w < warps; ++w) values[r] += shared[w * rows + r];
    }
}

}  // namespace gptoss::cuda

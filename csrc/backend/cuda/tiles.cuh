// Weights as the matrix units take them, and the one decoder of MXFP4 and of int8.
//
// A tile is 16 rows x 32 columns of weights, the left operand of two mma.m16n8k16. The columns that
// a lane holds are 8 t to 8 t + 7 (lane = 4 g + t), of rows g and g + 8: the order within a sum is
// free, and so a lane's activations are 16 bytes in a row. A panel is the tiles of 16 rows, in the
// order of columns; which rows share one is said by the matrix's RowOrder.
#pragma once

#include "backend/cuda/ptx.cuh"
#include "backend/stages.h"

namespace gptoss::cuda {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 32;
constexpr int kDecodeRows = 8;  // activation rows of a decode product: columns of the unit's tile
constexpr int kStepRows = 32;   // of a decode step at most
constexpr int kMostExperts = 128;
constexpr int kTileSums = kTileRows * kDecodeRows;
constexpr int kWarp = 32;

// Which published row stands in row r of panel p. In both pairs, row r (below 8) and row r + 8
// meet in one lane's sums.
enum class RowOrder : uint8_t {
    kPlain,   // 16 p + r
    kHalves,  // dimension d = 8 j + r of a head beside d + head_dim / 2: what rope rotates
    kGateUp,  // 16 p + 2 r, a gate, beside 16 p + 2 r + 1, its up
};

__host__ __device__ inline int published_row(RowOrder order, int head_dim, int panel, int r) {
    const int low = r % 8, high = r / 8;
    switch (order) {
        case RowOrder::kHalves: {
            const int panels = head_dim / kTileRows;
            const int head = panel / panels, j = panel % panels;
            return head * head_dim + high * (head_dim / 2) + 8 * j + low;
        }
        case RowOrder::kGateUp: return kTileRows * panel + 2 * low + high;
        default: return kTileRows * panel + r;
    }
}

// A panel's part of a matrix; tiles stand one after the other.
struct Panel {
    const std::byte* data;
    const std::byte* scales;
};

// What a tile's sums are multiplied by before they are added up: nothing, or the scales of rows g
// and g + 8.
struct NoScale {};
using RowScales = float2;

// bf16: 1024 bytes a tile, two times 16 bytes a lane: the fragments of its two products.
struct Bf16Tiles {
    static constexpr int kColumns = kTileColumns;  // of a step: what a lane loads at once
    static constexpr int kFragments = 2;
    static constexpr size_t kStepBytes = 1024;
    static constexpr size_t kStepScaleBytes = 0;
    static constexpr float kUnit = 1;  // what a sum is to be multiplied by

    struct Loaded {
        uint4 part[2];
    };

    static __device__ __forceinline__ Loaded load(const Panel& panel, int step, int lane) {
        const std::byte* at = panel.data + step * kStepBytes + lane * 16;
        return {{load_once_16(at), load_once_16(at + 512)}};
    }

    static __device__ __forceinline__ void fragment(const Loaded& w, int i, uint32_t (&a)[4]) {
        a[0] = w.part[i].x;
        a[1] = w.part[i].y;
        a[2] = w.part[i].z;
        a[3] = w.part[i].w;
    }
    static __device__ __forceinline__ NoScale scale(const Loaded&) { return {}; }
};

// MXFP4: two tiles a step, 16 bytes a lane: a word of eight values for each tile and row. The
// halves of a word hold the even and the odd values, four each, so that a shift and a mask make a
// pair of halves of two numbers: value p of a half has its exponent and fraction, three bits, three
// bits to the right of those of value p - 1, the first ones where an f16 has the end of its
// exponent and the start of its fraction; the signs are in bits 15, 12, 14 and 13. As f16 a value
// then is short by a factor of 2^14, as bf16, three bits further right, by 2^126. A scale byte is
// the exponent of 2^126 * 2^(published scale - 127) * 2^-64 as a bf16 has it: the weights are exact
// down to about 2^-68, and the factor kUnit that stays out keeps both ends in bf16's range.
struct Mxfp4Tiles {
    static constexpr int kColumns = 2 * kTileColumns;
    static constexpr int kFragments = 4;
    static constexpr size_t kStepBytes = 512;
    static constexpr size_t kStepScaleBytes = 32;  // {row g, row g + 8} of each tile, by g
    static constexpr float kUnit = 0x1p64f;
    static constexpr int kScaleShift = 62;  // stored scale byte - published scale byte
    static constexpr int kMostScale = 192;  // published; a weight of 2^65 and more is damage

    struct Loaded {
        uint4 words;  // row g, row g + 8 of the first tile, then of the second
        uint32_t scales;
    };

    static __device__ __forceinline__ Loaded load(const Panel& panel, int step, int lane) {
        const std::byte* scales = panel.scales + step * kStepScaleBytes + lane / 4 * 4;
        return {load_once_16(panel.data + step * kStepBytes + lane * 16), load_once_4(scales)};
    }

    // Values 2 p and 2 p + 1 of a word as bf16, times the scale.
    static __device__ __forceinline__ uint32_t pair(uint32_t word, int p, uint32_t scale) {
        const uint32_t sign = p == 0 ? word : p == 1 ? word << 3 : word << (p - 1);
        const uint32_t rest = p == 0 ? word >> 3 : word << (3 * p - 3);
        return multiply_bf16((sign & 0x80008000u) | (rest & 0x01c001c0u), scale);
    }

    // The same as f16, 2^14 times too small, without the scale.
    static __device__ __forceinline__ uint32_t small_pair(uint32_t word, int p) {
        const uint32_t rest = word << (3 * p);
        if (p < 2) return rest & 0x8e008e00u;
        return (rest & 0x0e000e00u) | ((word << (p - 1)) & 0x80008000u);
    }

    // The scales of such values: bytes for all four rows, then one of them.
    static constexpr int kSmallShift = 14;  // exponent - published scale byte
    static __device__ __forceinline__ uint32_t small_scales(uint32_t scales) {
        return scales - (kScaleShift - kSmallShift) * 0x01010101u;
    }
    static __device__ __forceinline__ float small_scale(uint32_t small, int i) {
        const uint32_t placed = i < 3 ? small << (23 - 8 * i) : small >> 1;
        return __uint_as_float(placed & 0x7f800000u);
    }

    static __device__ __forceinline__ uint32_t scale_pair(uint32_t scales, int i) {
        return (scales >> (8 * i) & 0xffu) * 0x00800080u;
    }

    static __device__ __forceinline__ void fragment(const Loaded& w, int i, uint32_t (&a)[4]) {
        const bool second = i >= 2;
        const uint32_t low = second ? w.words.z : w.words.x, high = second ? w.words.w : w.words.y;
        const uint32_t low_scale = scale_pair(w.scales, second ? 2 : 0);
        const uint32_t high_scale = scale_pair(w.scales, second ? 3 : 1);
        const int p = i % 2 * 2;
        a[0] = pair(low, p, low_scale);
        a[1] = pair(high, p, high_scale);
        a[2] = pair(low, p + 1, low_scale);
        a[3] = pair(high, p + 1, high_scale);
    }
    static __device__ __forceinline__ NoScale scale(const Loaded&) { return {}; }
};

// int8: a tile a step, 16 bytes a lane: four values of row g, four of row g + 8, the next four of
// each. A byte is a value + 128, so that it can stand in a fraction. A scale is a bf16.
struct Int8Tiles {
    static constexpr int kColumns = kTileColumns;
    static constexpr int kFragments = 2;
    static constexpr size_t kStepBytes = 512;
    static constexpr size_t kStepScaleBytes = 32;  // {row g, row g + 8}, by g
    static constexpr float kUnit = 1;
    static constexpr int kZero = 128;           // the byte of 0
    static constexpr float kF16Unit = 0x1p24f;  // what a sum of f16_pair()s is to be multiplied by

    struct Loaded {
        uint4 words;
        uint32_t scales;
    };

    static __device__ __forceinline__ Loaded load(const Panel& panel, int step, int lane) {
        const std::byte* scales = panel.scales + step * kStepScaleBytes + lane / 4 * 4;
        return {load_once_16(panel.data + step * kStepBytes + lane * 16), load_once_4(scales)};
    }

    // Values 2 p and 2 p + 1 of a word, as f16, 2^24 times too small: a byte as it stands is a
    // subnormal number. The permutation then needs no register for what stands above it.
    static __device__ __forceinline__ uint32_t f16_pair(uint32_t word, int p) {
        return subtract_f16(__byte_perm(word, 0, p == 0 ? 0x4140 : 0x4342), 0x00800080u);
    }
    // As bf16, whose fraction has seven bits: 128 + the byte's low seven, less 256, or 128 where
    // its high bit is set.
    static __device__ __forceinline__ uint32_t bf16_pair(uint32_t word, int p) {
        const uint32_t bytes = __byte_perm(word, 0, p == 0 ? 0x4140 : 0x4342);
        return subtract_bf16((bytes & 0x007f007fu) | 0x43004300u,
                             (bytes & 0x00800080u) ^ 0x43804380u);
    }

    // Of product i.
    template <uint32_t (*pair)(uint32_t, int)>
    static __device__ __forceinline__ void values(const uint4& words, int i, uint32_t (&a)[4]) {
        const uint32_t low = i ? words.z : words.x, high = i ? words.w : words.y;
        a[0] = pair(low, 0);
        a[1] = pair(high, 0);
        a[2] = pair(low, 1);
        a[3] = pair(high, 1);
    }

    // Times their scales, rounded to bf16.
    static __device__ __forceinline__ void fragment(const Loaded& w, int i, uint32_t (&a)[4]) {
        values<bf16_pair>(w.words, i, a);
        const uint32_t low = __byte_perm(w.scales, 0, 0x1010);
        const uint32_t high = __byte_perm(w.scales, 0, 0x3232);
        a[0] = multiply_bf16(a[0], low);
        a[1] = multiply_bf16(a[1], high);
        a[2] = multiply_bf16(a[2], low);
        a[3] = multiply_bf16(a[3], high);
    }
    static __device__ __forceinline__ NoScale scale(const Loaded&) { return {}; }

    static __device__ __forceinline__ RowScales row_scales(uint32_t scales) {
        return make_float2(__uint_as_float(scales << 16), __uint_as_float(scales & 0xffff0000u));
    }
};

// The same weights without a rounding: the values alone, their scales for the sums.
struct ExactInt8Tiles : Int8Tiles {
    static __device__ __forceinline__ void fragment(const Loaded& w, int i, uint32_t (&a)[4]) {
        values<bf16_pair>(w.words, i, a);
    }
    static __device__ __forceinline__ RowScales scale(const Loaded& w) {
        return row_scales(w.scales);
    }
};

// Calls use with the tiles of dense weights in that format.
template <class Use>
void with_dense_tiles(WeightFormat format, Use use) {
    if (format == WeightFormat::kInt8)
        use(Int8Tiles());
    else
        use(Bf16Tiles());
}

template <class Tiles>
__host__ __device__ constexpr int step_count(int columns) {
    return (columns + Tiles::kColumns - 1) / Tiles::kColumns;
}

__host__ __device__ constexpr int panel_count(int rows) {
    return (rows + kTileRows - 1) / kTileRows;
}

template <class Tiles>
__device__ __forceinline__ Panel panel_of(const Matrix& m, int expert, int panel) {
    const int steps = step_count<Tiles>(m.columns);
    return {m.data + expert * m.data_stride + size_t(panel) * steps * Tiles::kStepBytes,
            m.scales + expert * m.scale_stride + size_t(panel) * steps * Tiles::kStepScaleBytes};
}

}  // namespace gptoss::cuda

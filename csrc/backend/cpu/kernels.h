// The inner loops, as one table of functions for each instruction set.
//
// Weights stand in panels of 16 rows, a row to a vector lane, so that no sum crosses lanes and
// every output is one chain of additions over the columns, the same for one activation row or many.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/isa.h"

namespace gptoss::cpu {

constexpr int kKvTile = 16;  // positions of a tile of keys or values
constexpr int kPanelRows = 16;
constexpr int kMostProductRows = 8;  // activation rows that any product takes at once
constexpr int kBlock = 32;           // columns that share a scale

static inline int panel_count(int rows) { return (rows + kPanelRows - 1) / kPanelRows; }

// Bytes of one panel: bf16 [columns / 2][16 rows][2]; int8 [columns / 4][16][4], value + 128;
// MXFP4 [columns / 8][16][4 bytes], byte b holding column b low and column b + 4 high.
constexpr size_t bf16_panel_bytes(int columns) { return size_t(columns) * kPanelRows * 2; }
constexpr size_t int8_panel_bytes(int columns) { return size_t(columns) * kPanelRows; }
constexpr size_t mxfp4_panel_bytes(int columns) { return size_t(columns) * kPanelRows / 2; }
// Scales of one panel: int8 bf16 [blocks][16]; MXFP4 e8m0 [blocks][16].
constexpr size_t int8_scale_bytes(int columns) { return size_t(columns) / kBlock * kPanelRows * 2; }
constexpr size_t mxfp4_scale_bytes(int columns) { return size_t(columns) / kBlock * kPanelRows; }

// An activation row in blocks of 32: value = scale * (256 hi + lo), hi and lo in [-127, 127].
struct BlockRow {
    int8_t* hi;       // [columns]
    int8_t* lo;       // [columns]
    float* scale;     // [columns / 32]
    int32_t* hi_sum;  // [columns / 32]
    int32_t* lo_sum;  // [columns / 32]
};

// Carves a BlockRow out of 4 * columns bytes, the size of the same row in float32.
static inline BlockRow block_row(const void* row, int columns) {
    auto* bytes = static_cast<int8_t*>(const_cast<void*>(row));
    auto* scale = reinterpret_cast<float*>(bytes + 2 * columns);
    auto* sums = reinterpret_cast<int32_t*>(scale + columns / kBlock);
    return {bytes, bytes + columns, scale, sums, sums + columns / kBlock};
}

// out[row][lane] = sum over columns of panel[lane][column] * x[row][column]
using Product = void (*)(const std::byte* data, const std::byte* scales, int columns,
                         const void* const* x,  // [rows] of float32 [columns] or BlockRow
                         int rows,              // 1 to Kernels::max_rows
                         float* out);           // [rows][16]

// One query position against up to kUnitTiles tiles of keys, for all heads of one KV head.
struct AttentionUnit {
    const float* q;                  // [heads, head_dim]   scaled by 1 / sqrt(head_dim)
    const std::byte* const* keys;    // [tiles + next_tiles] of [head_dim][16]; the last are those
                                     // that will be asked for after this unit
    const std::byte* const* values;  // [tiles] of [16][head_dim]
    float* scores;                   // [heads][16 tiles]   scratch
    float* max;                      // [heads]             out: of the scores
    float* sum;                      // [heads]             out: of exp(score - max)
    float* out;                      // [heads][head_dim]   out: sum of exp(score - max) * value
    int heads, head_dim, tiles, next_tiles;
    int begin, end;  // keys seen, counted from the first tile's first
};
constexpr int kUnitTiles = 64;
constexpr int kMaxHeadsPerKv = 16;

// Sixteen published rows of a panel; a null row is packed as zeros.
struct PanelRows {
    const void* row[kPanelRows];
};
// What rounding weights to int8 lost.
struct SquaredError {
    double error = 0, weight = 0;
};

struct Kernels {
    Isa isa;
    int max_rows;
    Product bf16_float, int8_float, int8_block, mxfp4_float, mxfp4_block;
    void (*rms_norm)(const float* x, const float* gain, int n, float eps, float* out);
    // n values (a multiple of 32) into blocks first_block and following of the row.
    void (*quantize)(const float* x, int n, const BlockRow& row, int first_block);
    // out = min(g, limit) * sigmoid(1.702 min(g, limit)) * (clip(u, -limit, limit) + 1)
    void (*swiglu)(const float* gate, const float* up, int n, float limit, float* out);
    void (*attention_fp8)(const AttentionUnit& unit);
    void (*attention_f16)(const AttentionUnit& unit);
    void (*attention_float)(const AttentionUnit& unit);
    float (*max)(const float* x, int n);
    // exp(scale * (x - max)): their sum, NaN where an x is not finite; or all of them.
    double (*sum_exp)(const float* x, int n, float max, float scale);
    void (*exp_all)(const float* x, int n, float max, float scale, float* out);
    // Rows of bf16; of bf16, rounded in blocks of 32 to q * scale, |q| <= 127, adding to `squared`;
    // of columns / 32 published MXFP4 blocks of 16 bytes.
    void (*pack_bf16)(const PanelRows& rows, int columns, std::byte* panel);
    void (*pack_int8)(const PanelRows& rows, int columns, std::byte* panel, std::byte* scales,
                      SquaredError& squared);
    void (*pack_mxfp4)(const PanelRows& rows, int columns, std::byte* panel);
    uint64_t (*read)(const std::byte* data, size_t bytes);  // bytes a multiple of 256
};

const Kernels& kernels(Isa isa);
namespace scalar {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

}  // namespace gptoss::cpu

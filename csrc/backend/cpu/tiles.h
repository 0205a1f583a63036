// Prompt tokens in tiles, so that weights are unpacked once for many of them. Two ways to compute:
// on the tile unit (AMX), bf16 activations times bf16 weights; or on vectors, 16-bit integers
// whose sums over 32 columns are exact, the bits that the decode form has.
//
// A tile is 16 rows of 64 bytes. Activations stand in tiles of 16 rows x 32 columns, tile after
// tile along the columns, integers with 16 scales after them; weights in tiles of 16 pairs of
// columns x 16 rows, a dword a pair. That is what panels of bf16 are already; MXFP4 and int8 panels
// are unpacked some columns at a time.
//
// Every output is one chain over the tiles of its columns, whatever stands beside it.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/stages.h"

namespace gptoss::cpu {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 32;
constexpr size_t kTileBytes = 1024;
constexpr int kStripRows = 32;  // weight rows taken at once: two panels
constexpr int kTileDepth = 6;   // tiles along the columns taken at once: 10 KiB of a strip
// Row tiles taken at once: their activations stay in a core's second cache. Of experts more, since
// their weights come from memory each time.
constexpr int kMostRowTiles = 12, kMostDenseRowTiles = 8;
constexpr int kTileKeys = 64;        // keys whose scores are weighed at once
constexpr int kMostQueryRows = 256;  // (token, head) pairs that share the unpacking of keys

// Columns of activations stand in the order in which their weights' unpacking is cheapest.
enum class ColumnOrder { kPlain, kMxfp4 };
// Of each 8 columns.
constexpr int kMxfp4Order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

constexpr int row_tiles(int rows) { return (rows + kTileRows - 1) / kTileRows; }

// Where one row of activations lies: of each 32 columns 64 bytes, and a scale where they have one.
struct TileRow {
    std::byte* values;
    size_t stride;  // bytes from 32 columns to the next
    float* scales;
    size_t scale_stride;  // bytes
};

struct WeightStrip {
    const std::byte* data[2];  // of its panels; null: there is none
    const std::byte* scales[2];
};

struct TileProduct {
    WeightFormat format;
    WeightStrip strip;
    WeightStrip next;    // what will be asked for after it
    const std::byte* x;  // [row_tiles(rows)][columns / 32] tiles
    int columns, rows;
    float* out;           // [16 row_tiles(rows)][32]   out
    std::byte* unpacked;  // [2][kTileDepth][2] tiles: a thread's own
    int ready;            // half of it that holds the strip's first columns, or -1; in and out
};
constexpr size_t kUnpackedBytes = 2 * kTileDepth * 2 * kTileBytes;

// What some strips made of some rows, strip by strip: [rows][32] each, `stride` floats apart.
struct StripOutputs {
    const float* data;
    size_t stride;
    int first, strips, rows;

    const float* row(int strip, int r) const { return data + strip * stride + r * kStripRows; }
};

// Tokens of one sequence, by position, and the query heads of one KV head.
struct TileAttention {
    const float* q;             // [tokens] of [heads, head_dim], q_stride floats apart
    const float* sinks;         // [heads]
    const void* const* keys;    // tiles of 16 positions from position `origin` on
    const void* const* values;  // as many
    float* out;                 // [tokens] of [heads, head_dim], q_stride floats apart   out
    std::byte* scratch;         // kAttentionBytes, a thread's own
    size_t q_stride;
    int origin;    // a multiple of kTileKeys
    int position;  // of the first token
    int window;    // keys a token sees; 0: all
    int tokens, heads, head_dim;
};
constexpr size_t kAttentionBytes = size_t{256} << 10;

struct Tiles {
    bool scaled;  // activations are integers with scales, not bf16
    // Between them the calling thread's tile registers are in use.
    void (*begin)();
    void (*end)();
    void (*product)(TileProduct& product);
    // A row of n values, a multiple of 32, to this form.
    void (*convert)(const float* x, int n, ColumnOrder order, const TileRow& out);
    // A row of strips of 16 gates and 16 ups, with their biases, to 16 outputs each of row `to`:
    // bf16 in the order of MXFP4; where activations are scaled, float32 in a row.
    void (*swiglu)(const StripOutputs& out, int row, const float* bias, float limit,
                   const TileRow& to);
    void (*swiglu_float)(const StripOutputs& out, int row, const float* bias, float limit,
                         float* to);
    // By the type of keys and values; null where scaled.
    void (*attention_fp8)(const TileAttention& attention);
    void (*attention_f16)(const TileAttention& attention);

    size_t tile_bytes() const { return kTileBytes + (scaled ? kTileRows * sizeof(float) : 0); }
};

namespace amx {
extern const Tiles kTiles;
}
// Of int8 and MXFP4 weights:
namespace avx512 {
extern const Tiles kTiles;
}
namespace avx2 {
extern const Tiles kTiles;
}

}  // namespace gptoss::cpu

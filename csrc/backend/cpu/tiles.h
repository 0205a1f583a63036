// Prompt tokens on the tile unit: bf16 activations times bf16 weights, float32 sums.
//
// A tile is 16 rows of 64 bytes. Activations stand in tiles of 16 rows x 32 columns, tile after
// tile along the columns; weights in tiles of 16 pairs of columns x 16 rows, a dword a pair. That
// is what panels of bf16 are already; MXFP4 and int8 panels are unpacked some columns ahead of the
// products, between them, since the vector ports are idle there.
//
// Every output is one chain over the tiles of its columns, whatever stands beside it.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/stages.h"

namespace gptoss::cpu {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 32;
constexpr size_t kTileBytes = 1024;
constexpr int kStripRows = 32;       // weight rows taken at once: two panels
constexpr int kTileDepth = 10;       // tiles along the columns unpacked at once: 20 KiB a strip
constexpr int kMostRowTiles = 12;    // rows whose activations stay in a core's second cache
constexpr int kTileKeys = 64;        // keys whose scores are weighed at once
constexpr int kMostQueryRows = 256;  // (token, head) pairs that share the unpacking of keys

// Columns of activations stand in the order in which their weights' unpacking is cheapest.
enum class ColumnOrder { kPlain, kMxfp4 };
// Of each 8 columns.
constexpr int kMxfp4Order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

constexpr int row_tiles(int rows) { return (rows + kTileRows - 1) / kTileRows; }
// Where a row's 32 columns number `tile` lie in tiles of `columns` columns.
constexpr size_t tile_row_offset(int row, int tile, int columns) {
    return (size_t(row / kTileRows) * (columns / kTileColumns) + tile) * kTileBytes +
           row % kTileRows * 64;
}

struct WeightStrip {
    const std::byte* data[2];  // of its panels; null: there is none
    const std::byte* scales[2];
};

struct TileProduct {
    WeightFormat format;
    WeightStrip strip;
    WeightStrip next;    // what will be asked for after it
    const std::byte* x;  // [row_tiles][columns / 32] tiles
    int columns, row_tiles;
    float* out;           // [16 row_tiles][32]   out
    std::byte* unpacked;  // [2][kTileDepth][2] tiles: a thread's own
    int ready;            // half of it that holds the strip's first columns, or -1; in and out
};
constexpr size_t kUnpackedBytes = 2 * kTileDepth * 2 * kTileBytes;

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
    // Between them the calling thread's tile registers are in use.
    void (*begin)();
    void (*end)();
    void (*product)(TileProduct& product);
    // A row of n values, a multiple of 32, to bf16: `stride` bytes from 32 columns to the next.
    void (*convert)(const float* x, int n, ColumnOrder order, std::byte* out, size_t stride);
    // 16 outputs of each row of out [rows][32], 16 gates and 16 ups, to bf16 in the order of
    // MXFP4, the rows where `to` says.
    void (*swiglu)(const float* out, int rows, const float* bias, float limit,
                   std::byte* const* to);
    void (*attention)(const TileAttention& attention);
};

// Null where this build or this machine has no tile unit.
const Tiles* tiles();
namespace amx {
extern const Tiles kTiles;
}

}  // namespace gptoss::cpu

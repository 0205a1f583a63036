// Matrix times activation rows in tiles (tiles.h), split into strips over the threads.
#pragma once

#include <algorithm>

#include "backend/cpu/tiles.h"
#include "backend/stages.h"
#include "base/thread_pool.h"

namespace gptoss::cpu {

struct TileScratch {
    std::byte* x = nullptr;     // rows of a step, or act by expert, in tiles
    std::byte* rows = nullptr;  // [threads][rows_bytes]   of one block, in tiles
    size_t rows_bytes = 0;
    float* out = nullptr;           // [threads][kOutputs]
    std::byte* unpacked = nullptr;  // [threads][kUnpackedBytes]
};

constexpr int kTaskStrips = 15;
constexpr size_t kOutputs = size_t{4} * kMostRowTiles * kTileRows * kStripRows;

// Row `row` of tiles of `columns` columns.
inline TileRow tile_row(const Tiles& kernels, std::byte* tiles, int row, int columns) {
    const size_t bytes = kernels.tile_bytes();
    std::byte* tile = tiles + row / kTileRows * size_t(columns / kTileColumns) * bytes;
    const int within = row % kTileRows;
    return {tile + within * 64, bytes, reinterpret_cast<float*>(tile + kTileBytes) + within, bytes};
}

// One row by itself, in the 4 * columns bytes of the same row in float32.
inline TileRow plain_row(const void* row, int columns) {
    auto* values = static_cast<std::byte*>(const_cast<void*>(row));
    return {values, 64, reinterpret_cast<float*>(values + 2 * columns), sizeof(float)};
}

inline int pieces(int count, int most) { return (count + most - 1) / most; }

// Row tiles to take at a time: about as many each time, and an even number, since they are
// multiplied by twos.
inline int row_tiles_at_once(int all, int most) {
    const int even = pieces(all, pieces(all, most)) + 1;
    return even - even % 2;
}

// Where the matrix has an odd number of panels, the last strip has its last panel twice.
inline WeightStrip strip_of(const Matrix& m, int expert, int strip) {
    const int panels = panel_count(m.rows);
    WeightStrip out;
    for (int i = 0; i < 2; ++i) {
        const size_t panel = std::min(2 * strip + i, panels - 1);
        out.data[i] = m.data + expert * m.data_stride + m.data_stride / panels * panel;
        out.scales[i] = m.scales
                            ? m.scales + expert * m.scale_stride + m.scale_stride / panels * panel
                            : nullptr;
    }
    return out;
}

// Calls use(StripOutputs) for strips [begin, end) of an expert's matrix, some at a time: enough to
// write more than a line of a row's outputs at once, few enough to stay in the second cache beside
// the activations.
template <class Use>
void multiply_strips(const Tiles& kernels, const TileScratch& scratch, const Matrix& m, int expert,
                     const std::byte* x, int rows, int begin, int end, int thread, Use use) {
    const size_t stride = size_t(row_tiles(rows)) * kTileRows * kStripRows;
    const int most = static_cast<int>(kOutputs / stride);
    float* out = scratch.out + thread * kOutputs;
    TileProduct p;
    p.format = m.format;
    p.x = x;
    p.columns = m.columns;
    p.rows = rows;
    p.unpacked = scratch.unpacked + thread * kUnpackedBytes;
    p.ready = -1;
    p.next = strip_of(m, expert, begin);
    kernels.begin();
    for (int first = begin, strip = begin; first < end; first = strip) {
        for (p.out = out; strip < end && strip < first + most; ++strip, p.out += stride) {
            p.strip = p.next;
            p.next = strip + 1 < end ? strip_of(m, expert, strip + 1) : WeightStrip{};
            kernels.product(p);
        }
        use(StripOutputs{out, stride, first, strip - first, rows});
    }
    kernels.end();
}

// Calls use(row, first_output, outputs, values) for each of the rows in scratch.x and each strip.
template <class Use>
void multiply_tiled(ThreadPool& pool, const Tiles& kernels, const TileScratch& scratch,
                    const Matrix& m, int rows, Use use) {
    const int all = row_tiles(rows), most = row_tiles_at_once(all, kMostDenseRowTiles);
    const int passes = pieces(all, most);
    const int strips = pieces(m.rows, kStripRows);
    const int groups = pieces(strips, std::clamp(strips / (8 * pool.threads()), 1, kTaskStrips));
    pool.run(int64_t(passes) * groups, [&](int64_t task, int thread) {
        const int first = static_cast<int>(task / groups) * most * kTileRows;
        const int end = std::min(rows, first + most * kTileRows);
        const int64_t group = task % groups;
        const std::byte* x = tile_row(kernels, scratch.x, first, m.columns).values;
        multiply_strips(kernels, scratch, m, 0, x, end - first, group * strips / groups,
                        (group + 1) * strips / groups, thread, [&](const StripOutputs& out) {
                            for (int r = 0; r < out.rows; ++r)
                                for (int strip = 0; strip < out.strips; ++strip) {
                                    const int output = (out.first + strip) * kStripRows;
                                    use(first + r, output, std::min(kStripRows, m.rows - output),
                                        out.row(strip, r));
                                }
                        });
    });
}

}  // namespace gptoss::cpu

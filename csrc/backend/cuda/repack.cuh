// From published rows on the device to tiles (tiles.cuh). Bound by memory.
#pragma once

#include "backend/cuda/tiles.cuh"

namespace gptoss::cuda {

// Where the rows of a piece go: they are the published rows from `first_row` of a matrix on, a
// multiple of 16 rows that no panel reaches beyond, and of head_dim where halves are apart.
struct Piece {
    std::byte* out;  // of the matrix, or of one expert's
    RowOrder order;
    int head_dim;
    int first_row, rows, matrix_rows, columns;
};

void repack_bf16(cudaStream_t stream, const std::byte* rows, const Piece& piece);

// What rounding weights to int8 lost.
struct SquaredError {
    double error = 0, weight = 0;
};
// Of bf16 rows, each 32 columns rounded to values of -127 to 127 times a bf16 scale; the matrix's
// scales go to `scales`. Adds to *squared, which is in device memory.
void repack_int8(cudaStream_t stream, const std::byte* rows, const Piece& piece, std::byte* scales,
                 SquaredError* squared);
// [rows, columns / 32, 16] blocks.
void repack_mxfp4(cudaStream_t stream, const std::byte* blocks, const Piece& piece);
// [rows, columns / 32] scale bytes, none above Mxfp4Tiles::kMostScale.
void repack_scales(cudaStream_t stream, const std::byte* scales, const Piece& piece);

}  // namespace gptoss::cuda

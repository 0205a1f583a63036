// A strip of 32 weight rows times rows of 16-bit integers with a scale for each 32 columns, and the
// table of it. Included by kernels_avx2.cpp and kernels_avx512.cpp.
//
// Some columns of the strip at a time are unpacked to 16-bit integers in the first cache and stay
// there for all rows: with AVX-512 while the first rows are multiplied, with AVX2, which lacks
// registers for both, before them. An instruction multiplies two columns of its lanes, twice what
// one of float32 does; AVX2 adds by another one. A sum over 32 columns is the exact integer that
// product.inl has, scaled and added in the same order: the same bits.
namespace {

constexpr int kLine = 64;
constexpr size_t kWideTileBytes = kTileBytes + kTileRows * sizeof(float);

// Of one block of 32 columns: [16 pairs of columns][2 panels][16 rows][2], and what scales it.
struct WideBlock {
    I32x16 pairs[16][2];
    F32x16 scale[2];
};
constexpr int kWideDepth = 10;  // blocks at once: 21 KiB
static_assert(kWideDepth * sizeof(WideBlock) <= kUnpackedBytes);

// A strip's weights from some columns on, to be unpacked.
template <WeightFormat F>
struct PackedBlocks {
    static constexpr bool kInt8 = F == WeightFormat::kInt8;
    static constexpr int kLines = kInt8 ? 8 : 4;    // of a block and panel
    static constexpr int kLinePairs = 16 / kLines;  // of columns
    static constexpr size_t kBytes = kLine * kLines;
    static constexpr size_t kScaleBytes = kPanelRows * (kInt8 ? 2 : 1);

    const std::byte *data[2], *scales[2];  // of the panels
    size_t blocks;                         // of a panel

    F32x16 scale(int panel) const {
        // MXFP4: of twice the values.
        return kInt8 ? load_bf16(scales[panel]) : load_half_e8m0(scales[panel]);
    }
    // Also asks for the same line of the strip after it: what comes from memory comes line by line,
    // between the sums or the unpacking, since all at once would fill the core's queue of misses.
    I32x16 line(int panel, int i) const {
        const std::byte* from = data[panel] + kLine * i;
        prefetch_l2(from + 2 * blocks * kBytes);
        return load_int(from);
    }
    // Number `n` of a line's pairs, and which of the block it is: int8 has one in the even bytes
    // and the next but one in the odd ones, MXFP4 four in a row (of kMxfp4Order).
    static int place(int line, int n) {
        return kInt8 ? 4 * (line / 2) + line % 2 + 2 * n : kLinePairs * line + n;
    }
    static I32x16 pair(I32x16 line, int n) {
        return kInt8 ? int8_pair(line, n) : mxfp4_pair(line, n);
    }
    // Unpacks one of the pairs of line `j`, and returns which of the block it is.
    static int unpack(const I32x16 (&line)[2], int j, int n, WideBlock& block) {
        const int i = place(j, n);
        for (int panel = 0; panel < 2; ++panel) block.pairs[i][panel] = pair(line[panel], n);
        return i;
    }
    // Finishes a block whose pairs are unpacked, and goes on to the next.
    void finish(WideBlock& block) {
        for (int panel = 0; panel < 2; ++panel) {
            block.scale[panel] = scale(panel);
            prefetch_l2(scales[panel] + 2 * blocks * kScaleBytes);
            data[panel] += kBytes;
            scales[panel] += kScaleBytes;
        }
    }
};
struct UnpackedBlocks {};

// What scales a sum: a block's scale times a row's.
template <WeightFormat F>
inline F32x16 scale_of(F32x16 block, F32x16 row) {
    return F == WeightFormat::kInt8 ? block * row : scale_by_e8m0(row, block);
}

// sums += a pair of columns of some panels times R rows' words of it, 16 words from row to row.
template <int R>
inline void add_pair(I32x16 (&sum)[R][kWidePanels], const I32x16* weights, const Word* words) {
    for (int r = 0; r < R; ++r) {
        const I32x16 pair = splat_int(words[16 * r]);
        for (int panel = 0; panel < kWidePanels; ++panel)
            sum[r][panel] = dot_pairs(weights[panel], pair, sum[r][panel]);
    }
}

// R rows times `depth` blocks of the panels from `begin` on, added to out [R][32]; `next` bytes on
// are the rows to come. Packed: what the blocks are made of on the way, or UnpackedBlocks.
template <WeightFormat F, int R, class Packed>
void multiply_wide(const std::byte* x, int row, WideBlock* blocks, int depth, int begin, float* out,
                   size_t next, Packed packed) {
    // A constant where both panels are taken, so that the addresses are.
    const int first = kWidePanels == 2 ? 0 : begin;
    // Sums of floats, which stay in registers where those of integers leave room.
    F32x16 all[R][kWidePanels];
    const auto at = [&](int r, int panel) {
        return out + kStripRows * r + kPanelRows * (first + panel);
    };
    if constexpr (kWideHeld)
        for (int r = 0; r < R; ++r)
            for (int panel = 0; panel < kWidePanels; ++panel) all[r][panel] = load(at(r, panel));
    for (int b = 0; b < depth; ++b, x += kWideTileBytes) {
        WideBlock& block = blocks[b];
        I32x16 sum[R][kWidePanels];
        for (int r = 0; r < R; ++r)
            for (int panel = 0; panel < kWidePanels; ++panel) sum[r][panel] = splat_int(0);
        const auto* words = reinterpret_cast<const Word*>(x + kLine * row);
        for (int r = 0; r < R; ++r) prefetch_l1(x + next + kLine * (row + r));
        if constexpr (std::is_same_v<Packed, UnpackedBlocks>) {
            for (int j = 0; j < 16; j += 2) {
                for (int i = j; i < j + 2; ++i) add_pair<R>(sum, block.pairs[i] + first, words + i);
            }
        } else {
            for (int j = 0; j < Packed::kLines; ++j) {
                const I32x16 line[2] = {packed.line(0, j), packed.line(1, j)};
                for (int n = 0; n < Packed::kLinePairs; ++n) {
                    const int i = Packed::unpack(line, j, n, block);
                    add_pair<R>(sum, block.pairs[i] + first, words + i);
                }
            }
            packed.finish(block);
        }
        const auto* scales = reinterpret_cast<const float*>(x + kTileBytes) + row;
        for (int r = 0; r < R; ++r) {
            for (int panel = 0; panel < kWidePanels; ++panel) {
                const F32x16 scale = scale_of<F>(block.scale[first + panel], splat(scales[r]));
                const F32x16 part = to_float(sum[r][panel]);
                if constexpr (kWideHeld)
                    all[r][panel] = fma(scale, part, all[r][panel]);
                else
                    store(at(r, panel), fma(scale, part, load(at(r, panel))));
            }
        }
    }
    if constexpr (kWideHeld)
        for (int r = 0; r < R; ++r)
            for (int panel = 0; panel < kWidePanels; ++panel) store(at(r, panel), all[r][panel]);
}

template <WeightFormat F, int R, class Packed>
void multiply_wide_rows(const std::byte* x, int row, int rows, WideBlock* blocks, int depth,
                        int begin, float* out, size_t next, const Packed& packed) {
    if constexpr (R > 1) {
        if (rows < R)
            return multiply_wide_rows<F, R - 1>(x, row, rows, blocks, depth, begin, out, next,
                                                packed);
    }
    multiply_wide<F, R>(x, row, blocks, depth, begin, out, next, packed);
}

// All of some blocks, for sets that cannot unpack while they multiply. (A loop shared with
// multiply_wide cost that its registers.)
template <class Packed>
void unpack_blocks(Packed packed, WideBlock* blocks, int depth) {
    for (int b = 0; b < depth; ++b) {
        for (int j = 0; j < Packed::kLines; ++j) {
            const I32x16 line[2] = {packed.line(0, j), packed.line(1, j)};
#pragma GCC unroll 4
            for (int n = 0; n < Packed::kLinePairs; ++n) Packed::unpack(line, j, n, blocks[b]);
        }
        packed.finish(blocks[b]);
    }
}

template <WeightFormat F>
void multiply_wide_strip(TileProduct& p) {
    using Packed = PackedBlocks<F>;
    const int tiles = p.columns / kTileColumns;
    auto* blocks = reinterpret_cast<WideBlock*>(p.unpacked);
    for (int i = 0; i < p.rows * kStripRows; i += 16) store(p.out + i, splat(0));
    for (int first = 0; first < tiles; first += kWideDepth) {
        const int depth = tiles - first < kWideDepth ? tiles - first : kWideDepth;
        Packed packed;
        packed.blocks = tiles;
        for (int panel = 0; panel < 2; ++panel) {
            packed.data[panel] = p.strip.data[panel] + first * Packed::kBytes;
            packed.scales[panel] = p.strip.scales[panel] + first * Packed::kScaleBytes;
        }
        if constexpr (kWidePanels == 1) unpack_blocks(packed, blocks, depth);
        for (int row = 0; row < p.rows;) {
            // A tile's rows in parts that differ by one at most: few share a load badly.
            const int within = row % kTileRows, tile_left = kTileRows - within;
            const int left = p.rows - row < tile_left ? p.rows - row : tile_left;
            const int parts = (left + kWideRows - 1) / kWideRows;
            const int count = (left + parts - 1) / parts;
            const std::byte* x = p.x + (row / kTileRows * size_t(tiles) + first) * kWideTileBytes;
            float* out = p.out + kStripRows * row;
            const size_t next = parts > 1 ? kLine * count : tiles * kWideTileBytes - kLine * within;
            const auto multiply = [&](int begin, const auto& from) {
                multiply_wide_rows<F, kWideRows>(x, within, count, blocks, depth, begin, out, next,
                                                 from);
            };
            if constexpr (kWidePanels == 1) {
                multiply(0, UnpackedBlocks());
                multiply(1, UnpackedBlocks());
            } else if (row == 0) {
                multiply(0, packed);
            } else {
                multiply(0, UnpackedBlocks());
            }
            row += count;
        }
    }
}

void wide_product(TileProduct& p) {
    if (p.format == WeightFormat::kInt8)
        multiply_wide_strip<WeightFormat::kInt8>(p);
    else
        multiply_wide_strip<WeightFormat::kMxfp4>(p);
}

void wide_convert(const float* x, int n, ColumnOrder, const TileRow& row) {
    std::byte* values = row.values;
    auto* scale = reinterpret_cast<std::byte*>(row.scales);
    for (int i = 0; i < n; i += kBlock, values += row.stride, scale += row.scale_stride) {
        I32x16 steps[2];
        *reinterpret_cast<float*>(scale) = to_steps(x + i, steps);
        store_mxfp4_order(values, steps);
    }
}

void wide_swiglu(const StripOutputs& out, int row, const float* bias, float limit, float* to) {
    to += out.first * kPanelRows;
    for (int strip = 0; strip < out.strips; ++strip, bias += kStripRows) {
        const float* from = out.row(strip, row);
        float gate[kPanelRows], up[kPanelRows];
        store(gate, load(from) + load(bias));
        store(up, load(from + kPanelRows) + load(bias + kPanelRows));
        swiglu(gate, up, kPanelRows, limit, to + strip * kPanelRows);
    }
}

void no_registers() {}

}  // namespace

const Tiles kTiles = {true,    no_registers, no_registers, wide_product, wide_convert,
                      nullptr, wide_swiglu,  nullptr,      nullptr};

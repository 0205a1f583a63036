// A strip of 32 weight rows times rows of 16-bit integers with a scale for each 32 columns.
// Included by kernels_avx512.cpp.
//
// Some columns of the strip at a time are unpacked to 16-bit integers in the first cache while the
// first rows are multiplied, and stay there for the others. vpdpwssd does two columns of 16
// outputs, twice what float32 products would do in its time. A sum over 32 columns is the exact
// integer that product.inl has, scaled and added in the same order: the same bits.

constexpr int kLine = 64;
// Rows that share a load of weights. Their sums stay in registers, those of integers and of floats;
// of more rows they would be loaded and stored while the multipliers wait.
constexpr int kWideRows = 5;
constexpr size_t kWideTileBytes = kTileBytes + kTileRows * sizeof(float);

// Of one block of 32 columns: [16 pairs of columns][2 panels][16 rows][2], and what scales it.
struct WideBlock {
    __m512i pairs[16][2];
    __m512 scale[2];
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

    __m512 scale(int panel) const {
        // MXFP4: of twice the values.
        return kInt8 ? load_bf16(scales[panel]).v : (load_e8m0(scales[panel]) * splat(0.5f)).v;
    }
    // Also asks for the same line of the strip after it: what comes from memory comes line by line,
    // between the sums, since all at once would fill the core's queue of misses.
    __m512i line(int panel, int i) const {
        const std::byte* from = data[panel] + kLine * i;
        prefetch_l2(from + 2 * blocks * kBytes);
        return _mm512_loadu_si512(from);
    }
    // Number `n` of a line's pairs, and which of the block it is: int8 has one in the even bytes
    // and the next but one in the odd ones, MXFP4 four in a row (of kMxfp4Order).
    static int place(int line, int n) {
        return kInt8 ? 4 * (line / 2) + line % 2 + 2 * n : kLinePairs * line + n;
    }
    static __m512i pair(__m512i line, int n) {
        if constexpr (kInt8) {
            const __m512i bytes = _mm512_xor_si512(line, _mm512_set1_epi8(char(0x80)));
            return _mm512_srai_epi16(n ? bytes : _mm512_slli_epi16(bytes, 8), 8);
        } else {
            // Twice: vpermw reads five bits, the fifth of the next value.
            const __m512i table = _mm512_broadcast_i64x4(
                _mm256_setr_epi16(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
            return _mm512_permutexvar_epi16(_mm512_srli_epi16(line, 4 * n), table);
        }
    }
    void go_on() {
        for (int panel = 0; panel < 2; ++panel) {
            prefetch_l2(scales[panel] + 2 * blocks * kScaleBytes);
            data[panel] += kBytes;
            scales[panel] += kScaleBytes;
        }
    }
};
struct UnpackedBlocks {};

// sums += a pair of columns of both panels times R rows' words of it, 16 words from row to row.
template <int R>
inline void add_pair(__m512i (&sum)[R][2], __m512i first, __m512i second, const Word* words) {
    for (int r = 0; r < R; ++r) {
        const __m512i pair = _mm512_set1_epi32(words[16 * r]);
        sum[r][0] = _mm512_dpwssd_epi32(sum[r][0], first, pair);
        sum[r][1] = _mm512_dpwssd_epi32(sum[r][1], second, pair);
    }
}

// R rows times `depth` blocks, added to out [R][32]; `next` bytes on are the rows to come. Packed:
// what the blocks are made of on the way, or UnpackedBlocks.
template <int R, class Packed>
void multiply_wide(const std::byte* x, int row, WideBlock* blocks, int depth, float* out,
                   size_t next, Packed packed) {
    F32x16 all[R][2];
    for (int r = 0; r < R; ++r)
        for (int panel = 0; panel < 2; ++panel)
            all[r][panel] = load(out + kStripRows * r + kPanelRows * panel);
    for (int b = 0; b < depth; ++b, x += kWideTileBytes) {
        WideBlock& block = blocks[b];
        __m512i sum[R][2];
        for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
        const auto* words = reinterpret_cast<const Word*>(x + kLine * row);
        for (int r = 0; r < R; ++r) prefetch_l1(x + next + kLine * (row + r));
        if constexpr (std::is_same_v<Packed, UnpackedBlocks>) {
            for (int j = 0; j < 16; j += 2) {
                for (int i = j; i < j + 2; ++i)
                    add_pair<R>(sum, block.pairs[i][0], block.pairs[i][1], words + i);
            }
        } else {
            for (int j = 0; j < Packed::kLines; ++j) {
                const __m512i line[2] = {packed.line(0, j), packed.line(1, j)};
                for (int n = 0; n < Packed::kLinePairs; ++n) {
                    const int i = Packed::place(j, n);
                    const __m512i first = Packed::pair(line[0], n);
                    const __m512i second = Packed::pair(line[1], n);
                    block.pairs[i][0] = first;
                    block.pairs[i][1] = second;
                    add_pair<R>(sum, first, second, words + i);
                }
            }
            for (int panel = 0; panel < 2; ++panel) block.scale[panel] = packed.scale(panel);
            packed.go_on();
        }
        const auto* scales = reinterpret_cast<const float*>(x + kTileBytes) + row;
        for (int r = 0; r < R; ++r) {
            for (int panel = 0; panel < 2; ++panel) {
                const F32x16 scale = F32x16{block.scale[panel]} * splat(scales[r]);
                all[r][panel] = fma(scale, to_float(I32x16{sum[r][panel]}), all[r][panel]);
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int panel = 0; panel < 2; ++panel)
            store(out + kStripRows * r + kPanelRows * panel, all[r][panel]);
}

template <int R, class Packed>
void multiply_wide_rows(const std::byte* x, int row, int rows, WideBlock* blocks, int depth,
                        float* out, size_t next, const Packed& packed) {
    if constexpr (R > 1) {
        if (rows < R)
            return multiply_wide_rows<R - 1>(x, row, rows, blocks, depth, out, next, packed);
    }
    multiply_wide<R>(x, row, blocks, depth, out, next, packed);
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
        for (int row = 0; row < p.rows;) {
            // A tile's rows in parts that differ by one at most: few share a load badly.
            const int within = row % kTileRows, tile_left = kTileRows - within;
            const int left = p.rows - row < tile_left ? p.rows - row : tile_left;
            const int parts = (left + kWideRows - 1) / kWideRows;
            const int count = (left + parts - 1) / parts;
            const std::byte* x = p.x + (row / kTileRows * size_t(tiles) + first) * kWideTileBytes;
            float* out = p.out + kStripRows * row;
            const size_t next = parts > 1 ? kLine * count : tiles * kWideTileBytes - kLine * within;
            if (row == 0)
                multiply_wide_rows<kWideRows>(x, within, count, blocks, depth, out, next, packed);
            else
                multiply_wide_rows<kWideRows>(x, within, count, blocks, depth, out, next,
                                              UnpackedBlocks());
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
    const __m512i order =
        _mm512_set_epi16(31, 29, 27, 25, 30, 28, 26, 24, 23, 21, 19, 17, 22, 20, 18, 16, 15, 13, 11,
                         9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0);
    std::byte* values = row.values;
    auto* scale = reinterpret_cast<std::byte*>(row.scales);
    for (int i = 0; i < n; i += kBlock, values += row.stride, scale += row.scale_stride) {
        I32x16 steps[2];
        *reinterpret_cast<float*>(scale) = to_steps(x + i, steps);
        const __m512i plain =
            _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(steps[0].v)),
                               _mm512_cvtepi32_epi16(steps[1].v), 1);
        _mm512_storeu_si512(values, _mm512_permutexvar_epi16(order, plain));
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

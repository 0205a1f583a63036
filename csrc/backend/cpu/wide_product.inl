// A strip of 32 weight rows times rows of 16-bit integers with a scale for each 32 columns.
// Included by kernels_avx512.cpp.
//
// Some columns of the strip at a time are unpacked to 16-bit integers in the first cache, for all
// rows; vpdpwssd does two columns of 16 outputs, twice what float32 products would do in its time.
// A sum over 32 columns is the exact integer that product.inl has, scaled and added in the same
// order: the same bits.

constexpr int kLine = 64;
constexpr int kWideRows = 8;  // rows that share a load of weights: 16 sums stay in registers
constexpr size_t kWideTileBytes = kTileBytes + kTileRows * sizeof(float);

// Of one block of 32 columns: [16 pairs of columns][2 panels][16 rows][2], and what scales it.
struct WideBlock {
    __m512i pairs[16][2];
    __m512 scale[2];
};
constexpr int kWideDepth = 10;  // blocks unpacked at once: 21 KiB
static_assert(kWideDepth * sizeof(WideBlock) <= kUnpackedBytes);

// Twice the values; columns of each 8 in the order of kMxfp4Order.
inline void widen_mxfp4(const std::byte* data, const std::byte* scales, int panel,
                        WideBlock& block) {
    // Twice: vpermw reads five bits, the fifth of the next value.
    const __m512i table = _mm512_broadcast_i64x4(
        _mm256_setr_epi16(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    for (int j = 0; j < 4; ++j) {
        const __m512i nibbles = _mm512_loadu_si512(data + kLine * j);
        block.pairs[4 * j][panel] = _mm512_permutexvar_epi16(nibbles, table);
        block.pairs[4 * j + 1][panel] =
            _mm512_permutexvar_epi16(_mm512_srli_epi16(nibbles, 4), table);
        block.pairs[4 * j + 2][panel] =
            _mm512_permutexvar_epi16(_mm512_srli_epi16(nibbles, 8), table);
        block.pairs[4 * j + 3][panel] =
            _mm512_permutexvar_epi16(_mm512_srli_epi16(nibbles, 12), table);
    }
    block.scale[panel] = (load_e8m0(scales) * splat(0.5f)).v;
}

inline void widen_int8(const std::byte* data, const std::byte* scales, int panel,
                       WideBlock& block) {
    for (int j = 0; j < 8; ++j) {
        const __m512i bytes =
            _mm512_xor_si512(_mm512_loadu_si512(data + kLine * j), _mm512_set1_epi8(char(0x80)));
        const int first = 4 * (j / 2) + j % 2;
        block.pairs[first][panel] = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
        block.pairs[first + 2][panel] = _mm512_srai_epi16(bytes, 8);
    }
    block.scale[panel] = load_bf16(scales).v;
}

// sum += both products of each lane. Not the intrinsic: GCC 12 then keeps sums of eight rows on the
// stack, and two thirds of the speed.
inline void add_products(__m512i& sum, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}

// Weights that will be unpacked later: they come from memory line by line, between the sums, since
// all at once they would fill the core's queue of misses.
struct WeightsAhead {
    const std::byte* data;  // of the first of two panels; null: none
    size_t panel_bytes;     // to the second
    size_t step;            // an eighth of a tile
};

// R rows times `depth` blocks, added to out [R][32]; `next` bytes on are the rows to come.
template <int R, bool kAhead>
inline void multiply_wide(const std::byte* x, int row, const WideBlock* blocks, int depth,
                          float* out, size_t next, WeightsAhead ahead) {
    for (int b = 0; b < depth; ++b, x += kWideTileBytes) {
        const WideBlock& block = blocks[b];
        __m512i sum[R][2];
        for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
        const auto* words = reinterpret_cast<const Word*>(x + kLine * row);
        for (int r = 0; r < R; ++r) prefetch_l1(x + next + kLine * (row + r));
        for (int j = 0; j < 16; j += 2) {
            for (int i = j; i < j + 2; ++i) {
                const __m512i first = block.pairs[i][0], second = block.pairs[i][1];
                if (kAhead)
                    prefetch_l2(ahead.data + i / 8 * ahead.panel_bytes + i % 8 * ahead.step);
                for (int r = 0; r < R; ++r) {
                    const __m512i pair = _mm512_set1_epi32(words[16 * r + i]);
                    add_products(sum[r][0], first, pair);
                    add_products(sum[r][1], second, pair);
                }
            }
        }
        const auto* scales = reinterpret_cast<const float*>(x + kTileBytes) + row;
        for (int r = 0; r < R; ++r) {
            for (int panel = 0; panel < 2; ++panel) {
                float* to = out + kStripRows * r + kPanelRows * panel;
                const F32x16 scale = F32x16{block.scale[panel]} * splat(scales[r]);
                store(to, fma(scale, to_float(I32x16{sum[r][panel]}), load(to)));
            }
        }
        ahead.data += 8 * ahead.step;
    }
}

template <int R>
void multiply_wide_rows(const std::byte* x, int row, int rows, const WideBlock* blocks, int depth,
                        float* out, size_t next, const WeightsAhead& ahead) {
    if constexpr (R > 1) {
        if (rows < R)
            return multiply_wide_rows<R - 1>(x, row, rows, blocks, depth, out, next, ahead);
    }
    if (ahead.data)
        multiply_wide<R, true>(x, row, blocks, depth, out, next, ahead);
    else
        multiply_wide<R, false>(x, row, blocks, depth, out, next, ahead);
}

template <WeightFormat F>
void multiply_wide_strip(TileProduct& p) {
    constexpr bool kInt8 = F == WeightFormat::kInt8;
    constexpr size_t kBytes = kLine * (kInt8 ? 8 : 4), kScaleBytes = kPanelRows * (kInt8 ? 2 : 1);
    const int tiles = p.columns / kTileColumns;
    auto* blocks = reinterpret_cast<WideBlock*>(p.unpacked);
    constexpr size_t kHalf = kLine * kWideRows;  // of a tile
    static_assert(2 * kWideRows == kTileRows);
    for (int i = 0; i < p.rows * kStripRows; i += 16) store(p.out + i, splat(0));
    for (int first = 0; first < tiles; first += kWideDepth) {
        const int depth = tiles - first < kWideDepth ? tiles - first : kWideDepth;
        for (int b = 0; b < depth; ++b) {
            for (int panel = 0; panel < 2; ++panel) {
                const size_t tile = first + b;
                const std::byte* data = p.strip.data[panel] + tile * kBytes;
                const std::byte* scales = p.strip.scales[panel] + tile * kScaleBytes;
                if (tile % 2 == 0) prefetch_l2(scales + 2 * tiles * kScaleBytes);
                if constexpr (kInt8)
                    widen_int8(data, scales, panel, blocks[b]);
                else
                    widen_mxfp4(data, scales, panel, blocks[b]);
            }
        }
        // The same columns of the strip after it.
        WeightsAhead ahead{p.strip.data[0] + (2 * size_t(tiles) + first) * kBytes, tiles * kBytes,
                           kBytes / 8};
        for (int row = 0; row < p.rows; row += kWideRows, ahead.data = nullptr) {
            const std::byte* x = p.x + (row / kTileRows * size_t(tiles) + first) * kWideTileBytes;
            multiply_wide_rows<kWideRows>(
                x, row % kTileRows, p.rows - row, blocks, depth, p.out + kStripRows * row,
                row % kTileRows ? tiles * kWideTileBytes - kHalf : kHalf, ahead);
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

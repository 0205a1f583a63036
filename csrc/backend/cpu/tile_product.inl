// A strip of 32 weight rows times rows of activations. Included by kernels_amx.cpp.
//
// Some columns of the strip at a time, so that its tiles come from the first cache while those of
// the activations come from the second; sums wait in `out` between.

constexpr int kLine = 64;

inline void prefetch_tile(const std::byte* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += kLine) prefetch_l2(p + i);
}

// Where exponents would leave the range of normal numbers.
[[gnu::noinline]] void scale_tile(std::byte* tile, __m512 scale) {
    for (int i = 0; i < kTileRows; ++i) {
        __m512i pairs = _mm512_loadu_si512(tile + kLine * i);
        const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)) * scale;
        const __m512i mask = _mm512_set1_epi32(0xffff0000);
        const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, mask)) * scale;
        pairs = _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16),
                                _mm512_and_si512(_mm512_castps_si512(odd), mask));
        _mm512_storeu_si512(tile + kLine * i, pairs);
    }
}

// A scaled value is exactly a bf16. The table holds the values times 2**125, the scale's distance
// from 2**125 is taken from the exponents; zeros, of no sign, stay so because that saturates.
inline void unpack_mxfp4(const std::byte* data, const std::byte* scales, std::byte* tile) {
    // Twice: vpermw reads five bits, the fifth of the next value.
    const __m512i table = _mm512_broadcast_i64x4(_mm256_setr_epi16(
        0x0000, 0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0, 0x7f00, 0x7f40, 0x0000, short(0xfd80),
        short(0xfe00), short(0xfe40), short(0xfe80), short(0xfec0), short(0xff00), short(0xff40)));
    const __m128i e = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales));
    // Scales of 2**-125 to 2**125: all results are normal numbers.
    const __m128i above = _mm_sub_epi8(e, _mm_set1_epi8(2));
    const __m128i most = _mm_min_epu8(above, _mm_set1_epi8(char(250)));
    const bool plain = _mm_movemask_epi8(_mm_cmpeq_epi8(above, most)) == 0xffff;
    const __m512i below = _mm512_sub_epi32(_mm512_set1_epi32(252), _mm512_cvtepu8_epi32(e));
    __m512i steps = _mm512_or_si512(_mm512_slli_epi32(below, 7), _mm512_slli_epi32(below, 23));
    if (!plain) steps = _mm512_set1_epi16(125 << 7);
    for (int j = 0; j < 4; ++j) {
        const __m512i nibbles = _mm512_loadu_si512(data + kLine * j);
        const __m512i shifted[4] = {nibbles, _mm512_srli_epi16(nibbles, 4),
                                    _mm512_srli_epi16(nibbles, 8), _mm512_srli_epi16(nibbles, 12)};
        for (int i = 0; i < 4; ++i)
            _mm512_store_si512(
                tile + kLine * (4 * j + i),
                _mm512_subs_epu16(_mm512_permutexvar_epi16(shifted[i], table), steps));
    }
    if (!plain) scale_tile(tile, load_e8m0(scales).v);
}

// Rounded to bf16: an eighth of what requantising to int8 lost.
inline void unpack_int8(const std::byte* data, const std::byte* scales, std::byte* tile) {
    const __m512 scale = load_bf16(scales).v;
    const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(0xffff0000);
    const auto scaled = [&](__m512i top_byte) {
        const __m512 w = _mm512_cvtepi32_ps(_mm512_srai_epi32(top_byte, 24)) * scale;
        return _mm512_add_epi32(_mm512_castps_si512(w), half);
    };
    for (int j = 0; j < 8; ++j) {
        const __m512i bytes =
            _mm512_xor_si512(_mm512_loadu_si512(data + kLine * j), _mm512_set1_epi8(char(0x80)));
        for (int i = 0; i < 2; ++i) {
            const __m512i even = scaled(_mm512_slli_epi32(bytes, 24 - 16 * i));
            const __m512i odd = scaled(_mm512_slli_epi32(bytes, 16 - 16 * i));
            _mm512_store_si512(
                tile + kLine * (2 * j + i),
                _mm512_or_si512(_mm512_srli_epi32(even, 16), _mm512_and_si512(odd, high)));
        }
    }
}

// Tiles of a strip from tile `first` along the columns on, unpacked one after the other.
template <WeightFormat F>
struct Unpacking {
    const WeightStrip* strip;
    std::byte* to;
    int first, tiles;  // two panels' worth
    int done;
    size_t ahead;  // bytes to the same tile of the strip after it

    void one() {
        const int panel = done % 2, tile = first + done / 2;
        if constexpr (F == WeightFormat::kBf16) {
            prefetch_tile(strip->data[panel] + tile * kTileBytes, kTileBytes);
        } else {
            constexpr size_t bytes = kTileBytes / (F == WeightFormat::kInt8 ? 2 : 4);
            constexpr size_t scales = kPanelRows * (F == WeightFormat::kInt8 ? 2 : 1);
            const std::byte* data = strip->data[panel] + tile * bytes;
            prefetch_tile(data + ahead, bytes);
            const std::byte* scale = strip->scales[panel] + tile * scales;
            if (tile % 2 == 0) prefetch_l2(scale + ahead / bytes * scales);
            std::byte* out = to + done * kTileBytes;
            if constexpr (F == WeightFormat::kInt8)
                unpack_int8(data, scale, out);
            else
                unpack_mxfp4(data, scale, out);
        }
        ++done;
    }
    void all() {
        while (done < tiles) one();
    }
};

// R row tiles times `depth` tiles of both panels, added to `out` or, where it begins, to nothing.
template <int R, class Between>
inline void multiply_rows(const std::byte* x, size_t x_stride, const std::byte* const* weight,
                          size_t weight_stride, int depth, bool begins, float* out,
                          Between between) {
    constexpr int kOutStride = kStripRows * 4;
    if (begins) {
        tile_zero<0>();
        tile_zero<1>();
        if constexpr (R > 1) {
            tile_zero<2>();
            tile_zero<3>();
        }
    } else {
        tile_load<0>(out, kOutStride);
        tile_load<1>(out + 16, kOutStride);
        if constexpr (R > 1) {
            tile_load<2>(out + 16 * kStripRows, kOutStride);
            tile_load<3>(out + 16 * kStripRows + 16, kOutStride);
        }
    }
    for (int k = 0; k < depth; ++k) {
        tile_load<6>(weight[0] + k * weight_stride, kLine);
        tile_load<4>(x + k * kTileBytes, kLine);
        tile_load<7>(weight[1] + k * weight_stride, kLine);
        tile_multiply<0, 4, 6>();
        if constexpr (R > 1) tile_load<5>(x + x_stride + k * kTileBytes, kLine);
        tile_multiply<1, 4, 7>();
        if constexpr (R > 1) {
            tile_multiply<2, 5, 6>();
            tile_multiply<3, 5, 7>();
        }
        between();
    }
    tile_store<0>(out, kOutStride);
    tile_store<1>(out + 16, kOutStride);
    if constexpr (R > 1) {
        tile_store<2>(out + 16 * kStripRows, kOutStride);
        tile_store<3>(out + 16 * kStripRows + 16, kOutStride);
    }
}

template <WeightFormat F>
void multiply_strip(TileProduct& p) {
    const int tiles = p.columns / kTileColumns;
    const size_t half = kUnpackedBytes / 2;
    constexpr int kPart = F == WeightFormat::kBf16 ? 1 : F == WeightFormat::kInt8 ? 2 : 4;
    const size_t ahead = 2 * size_t(tiles) * kTileBytes / kPart;
    Unpacking<F> now{&p.strip, p.unpacked, 0, 2 * (tiles < kTileDepth ? tiles : kTileDepth),
                     0,        ahead};
    if (p.ready < 0) {
        if (F != WeightFormat::kBf16) now.all();
        p.ready = 0;
    }
    for (int first = 0; first < tiles; first += kTileDepth) {
        const int depth = tiles - first < kTileDepth ? tiles - first : kTileDepth;
        const bool last = first + depth == tiles;
        const int after = last ? 0 : first + kTileDepth;
        const int after_depth = tiles - after < kTileDepth ? tiles - after : kTileDepth;
        Unpacking<F> next{last ? &p.next : &p.strip,
                          p.unpacked + (1 - p.ready) * half,
                          after,
                          last && !p.next.data[0] ? 0 : 2 * after_depth,
                          0,
                          ahead};
        const std::byte* weight[2];
        size_t stride;
        if constexpr (F == WeightFormat::kBf16) {
            // Used where they lie; the next strip's same columns come to the second cache.
            next.strip = &p.next;
            next.first = first;
            next.tiles = p.next.data[0] ? 2 * depth : 0;
            for (int panel = 0; panel < 2; ++panel)
                weight[panel] = p.strip.data[panel] + first * kTileBytes;
            stride = kTileBytes;
        } else {
            for (int panel = 0; panel < 2; ++panel)
                weight[panel] = p.unpacked + p.ready * half + panel * kTileBytes;
            stride = 2 * kTileBytes;
        }
        // Spread evenly over the products.
        const int steps = (row_tiles(p.rows) + 1) / 2 * depth;
        int credit = 0;
        const auto between = [&] {
            for (credit += next.tiles; credit >= steps; credit -= steps) next.one();
        };
        const size_t x_stride = tiles * kTileBytes;
        const std::byte* x = p.x + first * kTileBytes;
        float* out = p.out;
        int row = 0;
        for (; row + 1 < row_tiles(p.rows); row += 2, x += 2 * x_stride, out += 32 * kStripRows)
            multiply_rows<2>(x, x_stride, weight, stride, depth, first == 0, out, between);
        if (row < row_tiles(p.rows))
            multiply_rows<1>(x, x_stride, weight, stride, depth, first == 0, out, between);
        p.ready = 1 - p.ready;
    }
    if (!p.next.data[0]) p.ready = -1;
}

void product(TileProduct& p) {
    switch (p.format) {
        case WeightFormat::kBf16: return multiply_strip<WeightFormat::kBf16>(p);
        case WeightFormat::kInt8: return multiply_strip<WeightFormat::kInt8>(p);
        default: return multiply_strip<WeightFormat::kMxfp4>(p);
    }
}

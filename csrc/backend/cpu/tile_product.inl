// A strip of 32 weight rows times rows of activations. Included by kernels_amx.cpp.
//
// Some columns of the strip at a time, two row tiles at a time: four products for four loads. The
// strip's tiles, twice those of a chunk, and the sums stay in the first cache; activations, of
// which each tile is loaded once a strip, stream past it from the second. The next chunk is
// unpacked in small parts between the products, on ports that the tile unit leaves idle. Weights
// come to the second cache by the processor's own prefetching, which is helped over the ends of
// pages.

constexpr int kLine = 64;

template <int N>
struct Count {
    static constexpr int value = N;
};

// Where exponents would leave the range of normal numbers.
[[gnu::noinline]] void scale_lines(std::byte* lines, const std::byte* scales) {
    const __m512 scale = load_e8m0(scales).v;
    for (std::byte* line = lines; line < lines + 4 * kLine; line += kLine) {
        __m512i pairs = _mm512_load_si512(line);
        const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)) * scale;
        const __m512i mask = _mm512_set1_epi32(0xffff0000);
        const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, mask)) * scale;
        pairs = _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16),
                                _mm512_and_si512(_mm512_castps_si512(odd), mask));
        _mm512_store_si512(line, pairs);
    }
}

// A scaled value is exactly a bf16. The table holds the values times 2**125, the scale's distance
// from 2**125 is taken from the exponents; zeros, of no sign, stay so because that saturates.
// Normal: all scales are 2**-125 to 2**125, so that all results are normal numbers.
template <bool Normal>
struct Mxfp4Unpacking {
    static constexpr size_t kBytes = kTileBytes / 4, kScaleBytes = kPanelRows;
    const std::byte *data, *scales;
    __m512i steps;

    [[gnu::always_inline]] Mxfp4Unpacking(const std::byte* d, const std::byte* s)
        : data(d), scales(s) {
        const __m512i e =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(s)));
        const __m512i below = _mm512_sub_epi32(_mm512_set1_epi32(252), e);
        steps = _mm512_or_si512(_mm512_slli_epi32(below, 7), _mm512_slli_epi32(below, 23));
        if (!Normal) steps = _mm512_set1_epi16(125 << 7);
    }
    [[gnu::always_inline]] void quarter(int q, std::byte* tile) const {
        // Twice: vpermw reads five bits, the fifth of the next value.
        alignas(64) static constexpr uint16_t kTable[32] = {
            0x0000, 0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0, 0x7f00, 0x7f40, 0x0000, 0xfd80, 0xfe00,
            0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40, 0x0000, 0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0,
            0x7f00, 0x7f40, 0x0000, 0xfd80, 0xfe00, 0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40};
        const __m512i table = _mm512_load_si512(kTable);
        // A shift by 4 on the permutations' port: the shifts' has more to do.
        const __m512i by4 = _mm512_set1_epi64(0x0034002400140004);
        const __m512i nibbles = _mm512_loadu_si512(data + kLine * q);
        const __m512i index[4] = {nibbles, _mm512_multishift_epi64_epi8(by4, nibbles),
                                  _mm512_srli_epi16(nibbles, 8), _mm512_srli_epi16(nibbles, 12)};
        tile += kLine * 4 * q;
        for (int i = 0; i < 4; ++i)
            _mm512_store_si512(tile + kLine * i,
                               _mm512_subs_epu16(_mm512_permutexvar_epi16(index[i], table), steps));
        if (!Normal) scale_lines(tile, scales);
    }
};

bool scales_are_normal(const WeightStrip& strip, int columns) {
    const int bytes = columns / kTileColumns * kPanelRows;
    __mmask64 beyond = 0;
    for (const std::byte* scales : strip.scales)
        for (int i = 0; scales && i < bytes; i += kLine) {
            const __mmask64 there = bytes - i < kLine ? (uint64_t{1} << (bytes - i)) - 1 : ~0ull;
            const __m512i e = _mm512_maskz_loadu_epi8(there, scales + i);
            beyond |= _mm512_mask_cmpgt_epu8_mask(there, _mm512_sub_epi8(e, _mm512_set1_epi8(2)),
                                                  _mm512_set1_epi8(char(250)));
        }
    return beyond == 0;
}

// Rounded to bf16: an eighth of what requantising to int8 lost.
struct Int8Unpacking {
    static constexpr size_t kBytes = kTileBytes / 2, kScaleBytes = 2 * kPanelRows;
    const std::byte* data;
    __m512 twice, offset;

    // A byte in the upper half of the mantissa of 128 makes 128 + byte / 2; it is the weight plus
    // 128. The product with the scale is exact.
    [[gnu::always_inline]] Int8Unpacking(const std::byte* d, const std::byte* s) : data(d) {
        const __m512 scale = load_bf16(s).v;
        twice = scale + scale;
        offset = scale * _mm512_set1_ps(-384);
    }
    [[gnu::always_inline]] void quarter(int q, std::byte* tile) const {
        const __m512i mantissa = _mm512_set1_epi32(0xff << 15), one = _mm512_set1_epi32(0x43000000);
        const __m512i half = _mm512_set1_epi32(0x8000);
        const auto scaled = [&](__m512i placed) {
            // (placed & mantissa) | one
            const __m512i bits = _mm512_ternarylogic_epi32(placed, mantissa, one, 0xea);
            const __m512 w = _mm512_fmadd_ps(_mm512_castsi512_ps(bits), twice, offset);
            return _mm512_add_epi32(_mm512_castps_si512(w), half);
        };
        for (int j = 2 * q; j < 2 * q + 2; ++j) {
            const __m512i bytes = _mm512_loadu_si512(data + kLine * j);
            const __m512i even[2] = {_mm512_slli_epi32(bytes, 15), _mm512_srli_epi32(bytes, 1)};
            const __m512i odd[2] = {_mm512_slli_epi32(bytes, 7), _mm512_srli_epi32(bytes, 9)};
            for (int i = 0; i < 2; ++i)
                _mm512_store_si512(tile + kLine * (2 * j + i),
                                   _mm512_mask_mov_epi16(_mm512_srli_epi32(scaled(even[i]), 16),
                                                         0xaaaaaaaa, scaled(odd[i])));
        }
    }
};

// bf16 panels are tiles as they lie.
struct NoUnpacking {
    static constexpr size_t kBytes = 0;
};

// Tiles of a strip along the columns, of both panels; no strip: there are none.
struct Chunk {
    const WeightStrip* strip;
    int first, depth;
    std::byte* to;  // [depth][2] tiles
};

// What of a chunk is unpacked beside some rows' products: of each step along the columns
// `Quarters` of the eight of both tiles, from quarter `from` on.
template <class Work, int Quarters>
struct Share {
    const std::byte *data[2], *scales[2];
    std::byte* to;
    int from;

    [[gnu::always_inline]] Share(const Chunk& c, int from_) : to(c.to), from(from_) {
        for (int i = 0; i < 2; ++i) {
            const int panel = Quarters == 8 ? i : from / 4;
            data[i] = c.strip->data[panel] + c.first * Work::kBytes;
            scales[i] = c.strip->scales[panel] + c.first * Work::kScaleBytes;
            if (Quarters < 8) to = c.to + panel * kTileBytes;
        }
    }
    [[gnu::always_inline]] Work begin(int i, int k) const {
        return Work(data[i] + k * Work::kBytes, scales[i] + k * Work::kScaleBytes);
    }
    // A step's work comes in four parts, since the processor looks only so far ahead for what can
    // run beside the products; `tile` is a step's first.
    [[gnu::always_inline]] void part(int p, const Work& work, std::byte* tile) const {
        if constexpr (Quarters == 8) {
            work.quarter(2 * (p % 2), tile);
            work.quarter(2 * (p % 2) + 1, tile);
        } else if (p * Quarters % 4 == 0) {
            work.quarter((Quarters == 4 ? 0 : from % 4) + p * Quarters / 4, tile);
        }
    }
};

// Calls use(tile register, where its sums lie) for each of R row tiles and both panels.
template <int R, class Use>
inline void each_sum(float* out, Use use) {
    use(Count<0>(), out);
    use(Count<1>(), out + 16);
    if constexpr (R > 1) {
        use(Count<2>(), out + 16 * kStripRows);
        use(Count<3>(), out + 16 * kStripRows + 16);
    }
}

// Where the tiles of the product lie: those of a panel `step` bytes apart, the second panel's
// `apart` behind the first's.
struct WeightTiles {
    const std::byte* data;
    size_t step, apart;
};

// R row tiles times `depth` tiles of both panels, added to `out` or, where it begins, to nothing.
template <int R, class Work, int Quarters>
void multiply_rows(const std::byte* x, size_t x_stride, WeightTiles weight, int depth, bool begins,
                   float* out, const Chunk& next, int from) {
    constexpr int kOutStride = kStripRows * 4;
    each_sum<R>(out, [&](auto tile, float* sums) {
        if (begins)
            tile_zero<tile.value>();
        else
            tile_load<tile.value>(sums, kOutStride);
    });
    const auto product = [&](int k, auto between) __attribute__((always_inline)) {
        const std::byte* w = weight.data + k * weight.step;
        tile_load<6>(w, kLine);
        tile_load_once<4>(x + k * kTileBytes, kLine);
        tile_load<7>(w + weight.apart, kLine);
        tile_multiply<0, 4, 6>();
        between(Count<0>());
        if constexpr (R > 1) tile_load_once<5>(x + x_stride + k * kTileBytes, kLine);
        tile_multiply<1, 4, 7>();
        between(Count<1>());
        if constexpr (R > 1) tile_multiply<2, 5, 6>();
        between(Count<2>());
        if constexpr (R > 1) tile_multiply<3, 5, 7>();
        between(Count<3>());
    };
    int k = 0;
    if constexpr (Quarters > 0) {
        const Share<Work, Quarters> share(next, from);
        const int both = depth < next.depth ? depth : next.depth;
        std::byte* tile = share.to;
        for (; k < both; ++k, tile += 2 * kTileBytes) {
            auto work = share.begin(0, k);
            product(k, [&](auto part) __attribute__((always_inline)) {
                constexpr bool kSecond = Quarters == 8 && part.value >= 2;
                if (kSecond && part.value == 2) work = share.begin(1, k);
                share.part(part.value, work, kSecond ? tile + kTileBytes : tile);
            });
        }
    }
    for (; k < depth; ++k) product(k, [](auto) {});
    each_sum<R>(out, [&](auto tile, float* sums) { tile_store<tile.value>(sums, kOutStride); });
}

template <class Work>
void unpack_steps(const Chunk& c, int begin) {
    const Share<Work, 8> share(c, 0);
    for (int k = begin; k < c.depth; ++k)
        for (int panel = 0; panel < 2; ++panel) {
            const auto work = share.begin(panel, k);
            for (int q = 0; q < 4; ++q) work.quarter(q, c.to + (2 * k + panel) * kTileBytes);
        }
}

// All rows times a chunk's tiles, while the next one's are unpacked.
template <class Work>
void multiply_chunk(const TileProduct& p, const Chunk& now, WeightTiles weight, const Chunk& next) {
    const int all = row_tiles(p.rows), passes = (all + 1) / 2;
    const size_t x_stride = p.columns / kTileColumns * kTileBytes;
    const std::byte* x = p.x + now.first * kTileBytes;
    float* out = p.out;
    // As many of the eight quarters beside each two row tiles as make them all, evenly.
    const int share = !next.strip ? 0 : passes == 1 ? 8 : passes < 4 ? 4 : passes < 8 ? 2 : 1;
    int from = 0;
    for (int row = 0; row < all; row += 2, from += share) {
        const auto with = [&](auto quarters) {
            const auto multiply = row + 1 < all ? multiply_rows<2, Work, quarters.value>
                                                : multiply_rows<1, Work, quarters.value>;
            multiply(x, x_stride, weight, now.depth, now.first == 0, out, next, from);
        };
        if constexpr (!Work::kBytes) {
            with(Count<0>());
        } else {
            switch (from < 8 ? share : 0) {
                case 0: with(Count<0>()); break;
                case 1: with(Count<1>()); break;
                case 2: with(Count<2>()); break;
                case 4: with(Count<4>()); break;
                default: with(Count<8>());
            }
        }
        x += 2 * x_stride;
        out += 2 * kTileRows * kStripRows;
    }
}

// The processor prefetches within a page of 4 KiB, once its first lines were asked for. Asks for
// those of the pages that begin in these bytes; asking for more takes the buffers that activations
// come through.
inline void ask_for_pages(const std::byte* data, size_t bytes) {
    constexpr uintptr_t kPage = 4096;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    for (uintptr_t page = (begin + kPage - 1) & -kPage; page < begin + bytes; page += kPage)
        for (int line = 0; line < 4; ++line)
            _mm_prefetch(reinterpret_cast<const char*>(page) + line * kLine, _MM_HINT_T1);
}

// Tiles [first, first + depth) of chunk `n`: as many for each, or one less.
inline Chunk chunk_of(const TileProduct& p, const WeightStrip& strip, int n, int half) {
    const int tiles = p.columns / kTileColumns, chunks = (tiles + kTileDepth - 1) / kTileDepth;
    const int first = n * tiles / chunks;
    return {strip.data[0] ? &strip : nullptr, first, (n + 1) * tiles / chunks - first,
            p.unpacked + half * (kUnpackedBytes / 2)};
}

template <class Work>
void multiply_unpacked(TileProduct& p) {
    const int tiles = p.columns / kTileColumns, chunks = (tiles + kTileDepth - 1) / kTileDepth;
    if (p.ready < 0) {
        p.ready = 0;
        unpack_steps<Work>(chunk_of(p, p.strip, 0, 0), 0);
    }
    for (int n = 0; n < chunks; ++n, p.ready = 1 - p.ready) {
        const Chunk now = chunk_of(p, p.strip, n, p.ready);
        const Chunk next = n + 1 < chunks ? chunk_of(p, p.strip, n + 1, 1 - p.ready)
                                          : chunk_of(p, p.next, 0, 1 - p.ready);
        if (next.strip)
            for (int i = 0; i < 2; ++i) {
                ask_for_pages(next.strip->data[i] + (next.first + 8) * Work::kBytes,
                              next.depth * Work::kBytes);
                ask_for_pages(next.strip->scales[i] + (next.first + 64) * Work::kScaleBytes,
                              next.depth * Work::kScaleBytes);
            }
        multiply_chunk<Work>(p, now, {now.to, 2 * kTileBytes, kTileBytes}, next);
        if (next.strip) unpack_steps<Work>(next, now.depth);
    }
    if (!p.next.data[0]) p.ready = -1;
}

void multiply_as_placed(const TileProduct& p) {
    const int tiles = p.columns / kTileColumns, chunks = (tiles + kTileDepth - 1) / kTileDepth;
    const std::byte* panel = p.strip.data[0];
    for (int n = 0; n < chunks; ++n) {
        const Chunk now = chunk_of(p, p.strip, n, 0);
        for (const std::byte* data : p.strip.data)
            ask_for_pages(data + (now.first + kTileDepth) * kTileBytes, now.depth * kTileBytes);
        const WeightTiles weight{panel + now.first * kTileBytes, kTileBytes,
                                 size_t(p.strip.data[1] - panel)};
        multiply_chunk<NoUnpacking>(p, now, weight, {});
    }
}

void multiply_mxfp4(TileProduct& p) {
    // The first tiles of the next strip are unpacked with this one's.
    const bool normal =
        scales_are_normal(p.strip, p.columns) && scales_are_normal(p.next, p.columns);
    normal ? multiply_unpacked<Mxfp4Unpacking<true>>(p)
           : multiply_unpacked<Mxfp4Unpacking<false>>(p);
}

void product(TileProduct& p) {
    switch (p.format) {
        case WeightFormat::kBf16: return multiply_as_placed(p);
        case WeightFormat::kInt8: return multiply_unpacked<Int8Unpacking>(p);
        default: return multiply_mxfp4(p);
    }
}

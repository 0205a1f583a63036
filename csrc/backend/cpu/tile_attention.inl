// Attention of a block of tokens over their keys, 64 at a time, with a running softmax that begins
// with the sinks. Included by kernels_amx.cpp.
//
// Rows are (token, query head). Both products are computed with keys, then dimensions, down and 16
// rows across, so that a row is a vector lane: no maximum and no sum goes across a vector, and what
// the exponentials make is an operand as it is. Keys are cut at multiples of 64 positions, and for
// a row that sees none of them 64 keys change nothing, so that a row's result does not depend on
// its block. Bound by the exponentials.

constexpr int kPositions = kTileKeys / kKvTile;  // tiles of the cache taken at once
constexpr int kMostHeadSize = 64;
constexpr int kPairRows = 2 * kTileRows;  // rows taken at once
constexpr float kLog2E = 1.44269504f;

struct AttentionScratch {
    // Operands: 16 rows of 16 dwords, each of two dimensions, or of two keys.
    alignas(64) std::byte q[kMostQueryRows / kTileRows][kMostHeadSize / kTileColumns][kTileBytes];
    alignas(64) std::byte keys[kPositions][kMostHeadSize / kTileColumns][kTileBytes];
    alignas(64) std::byte values[kTileKeys / kTileColumns][kMostHeadSize / kKvTile][kTileBytes];
    alignas(64) std::byte weights[kTileKeys / kTileColumns][2][kTileBytes];
    alignas(64) float scores[2][kTileKeys][kPairRows];  // of the rows at work, and of the next
    alignas(64) float max[kMostQueryRows], sum[kMostQueryRows];
    alignas(64) int position[kMostQueryRows];  // of a row's token; of none: before all keys
    alignas(64) float out[kMostQueryRows / kPairRows][kMostHeadSize][kPairRows];
};
static_assert(sizeof(AttentionScratch) <= kAttentionBytes);

inline __m512i bits(__m512bh x) { return reinterpret_cast<__m512i&>(x); }

// 16 elements of two rows each, as 16 pairs of bf16.
inline __m512i bf16_pairs(__m512 even, __m512 odd) {
    const __m512bh both = _mm512_cvtne2ps_pbh(odd, even);
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, bits(both));
}

// 16 x 16 dwords in place.
inline void transpose(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    // r[4 i + j]: in each quarter c the rows 4 i to 4 i + 3 of column 4 c + j.
    for (int j = 0; j < 4; ++j) {
        const __m512i low = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
        const __m512i low_odd = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        const __m512i high = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        const __m512i high_odd = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(low, high, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(low, high, 0xdd);
        t[4 + j] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
    }
    for (int i = 0; i < 16; ++i) r[i] = t[i];
}

inline void transpose_tile(std::byte* tile) {
    __m512i rows[16];
    for (int i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(tile + 64 * i);
    transpose(rows);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(tile + 64 * i, rows[i]);
}

inline __m256i load_elements(const f16* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m128i load_elements(const fp8* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline __m512i bf16_pairs(__m256i even, __m256i odd) {
    return bf16_pairs(_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd));
}
inline __m512i bf16_pairs(__m128i even, __m128i odd) {
    F32x16 v[2];
    widen_fp8(_mm256_set_m128i(odd, even), v);
    return bf16_pairs((v[0] * splat(kFp8Unit)).v, (v[1] * splat(kFp8Unit)).v);
}

// Keys [head_dim][16] of one tile of the cache.
template <class T>
inline void unpack_keys(const void* keys, int head_dim, std::byte (*to)[kTileBytes]) {
    const auto* from = static_cast<const T*>(keys);
    for (int d = 0; d < head_dim; d += 2)
        _mm512_store_si512(
            to[d / kTileColumns] + d % kTileColumns / 2 * 64,
            bf16_pairs(load_elements(from + d * kKvTile), load_elements(from + (d + 1) * kKvTile)));
}

// Values [16][head_dim] of tile `tile` of the 64 keys; zero where no token sees them: there may be
// anything.
template <class T>
inline void unpack_values(const void* values, int head_dim, int tile, int begin, int end,
                          AttentionScratch& s) {
    const auto* from = static_cast<const T*>(values);
    const auto load_or_zero = [&](int key, int d) {
        const int place = tile * kKvTile + key;
        const bool seen = begin <= place && place < end;
        return seen ? load_elements(from + key * head_dim + d) : decltype(load_elements(from)){};
    };
    for (int d = 0; d < head_dim; d += 16)
        for (int key = 0; key < kKvTile; key += 2) {
            const int row = (tile % 2 * kKvTile + key) / 2;
            _mm512_store_si512(s.values[tile / 2][d / 16] + row * 64,
                               bf16_pairs(load_or_zero(key, d), load_or_zero(key + 1, d)));
        }
}

// Of the keys against two row tiles.
inline void score(AttentionScratch& s, int pair, int depth, float (*scores)[kPairRows]) {
    for (int t = 0; t < kPositions; t += 2) {
        tile_zero<0>();
        tile_zero<1>();
        tile_zero<2>();
        tile_zero<3>();
        for (int k = 0; k < depth; ++k) {
            tile_load<4>(s.keys[t][k], 64);
            tile_load<5>(s.keys[t + 1][k], 64);
            tile_load<6>(s.q[2 * pair][k], 64);
            tile_load<7>(s.q[2 * pair + 1][k], 64);
            tile_multiply<0, 4, 6>();
            tile_multiply<1, 4, 7>();
            tile_multiply<2, 5, 6>();
            tile_multiply<3, 5, 7>();
        }
        constexpr int kStride = kPairRows * 4;
        tile_store<0>(scores[t * kKvTile], kStride);
        tile_store<1>(scores[t * kKvTile] + kTileRows, kStride);
        tile_store<2>(scores[(t + 1) * kKvTile], kStride);
        tile_store<3>(scores[(t + 1) * kKvTile] + kTileRows, kStride);
    }
}

// Adds the weighted values of two row tiles to `out`.
inline void add_values(AttentionScratch& s, float (*out)[kPairRows], int head_dim) {
    constexpr int kStride = kPairRows * 4;
    for (int d = 0; d < head_dim; d += 2 * kKvTile) {
        tile_load<0>(out[d], kStride);
        tile_load<1>(out[d] + kTileRows, kStride);
        tile_load<2>(out[d + kKvTile], kStride);
        tile_load<3>(out[d + kKvTile] + kTileRows, kStride);
        for (int k = 0; k < kTileKeys / kTileColumns; ++k) {
            tile_load<4>(s.values[k][d / kKvTile], 64);
            tile_load<5>(s.values[k][d / kKvTile + 1], 64);
            tile_load<6>(s.weights[k][0], 64);
            tile_load<7>(s.weights[k][1], 64);
            tile_multiply<0, 4, 6>();
            tile_multiply<1, 4, 7>();
            tile_multiply<2, 5, 6>();
            tile_multiply<3, 5, 7>();
        }
        tile_store<0>(out[d], kStride);
        tile_store<1>(out[d] + kTileRows, kStride);
        tile_store<2>(out[d + kKvTile], kStride);
        tile_store<3>(out[d + kKvTile] + kTileRows, kStride);
    }
}

// The keys that a position sees of the 64, as [begin, end).
struct Seen {
    int begin, end;
};

inline Seen seen_by(int position, int window, int first_key) {
    const int begin = window ? position - window + 1 - first_key : 0,
              end = position + 1 - first_key;
    return {begin > 0 ? begin : 0, end < kTileKeys ? end : kTileKeys};
}

// 2**x by a polynomial of degree 4, relative error under 3e-6, a thousandth of what rounding to
// bf16 leaves; 1 at 0, and below 2**-149 zero. A NaN stays one.
inline __m512 exp2(__m512 x) {
    const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-160), x);
    const __m512 n = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = clamped - n;
    constexpr float kCoefficients[] = {5.59064262e-2f, 2.40240991e-1f, 6.93124175e-1f, 1.0f};
    __m512 p = _mm512_set1_ps(9.58285201e-3f);
    for (float c : kCoefficients) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, n);
}

// Scores of 16 rows, lanes of each key's vector, to weights; their maximum, sum and output follow.
// Some: not all rows see all keys.
template <bool Some>
inline void weigh(const TileAttention& a, AttentionScratch& s, int row, int first_key,
                  const float (*scores)[kPairRows], float (*out)[kPairRows], int tile) {
    const int column = tile * kTileRows;
    const __m512i position = _mm512_load_si512(s.position + row);
    // Of the 64, those from `begin` on, `count` of them; where there are none, count is 0 or less.
    const __m512i begin = _mm512_max_epi32(
        _mm512_sub_epi32(position,
                         _mm512_set1_epi32((a.window ? a.window - 1 : 1 << 30) + first_key)),
        _mm512_setzero_si512());
    const __m512i end = _mm512_sub_epi32(position, _mm512_set1_epi32(first_key - 1));
    const __m512i count = _mm512_max_epi32(_mm512_sub_epi32(end, begin), _mm512_setzero_si512());
    const auto seen = [&](int key) {
        const __m512i place = _mm512_sub_epi32(_mm512_set1_epi32(key), begin);
        return Some ? _mm512_cmplt_epu32_mask(place, count) : __mmask16(0xffff);
    };
    const __m512 before = _mm512_load_ps(s.max + row);
    __m512 largest[4] = {before, before, before, before};
    for (int key = 0; key < kTileKeys; key += 4)
        for (int i = 0; i < 4; ++i)
            largest[i] = _mm512_mask_max_ps(largest[i], seen(key + i), largest[i],
                                            _mm512_load_ps(scores[key + i] + column));
    const __m512 now =
        _mm512_max_ps(_mm512_max_ps(largest[0], largest[1]), _mm512_max_ps(largest[2], largest[3]));
    __m512 even_sum = _mm512_setzero_ps(), odd_sum = even_sum;
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int key = 0; key < kTileKeys; key += 2) {
        const auto weight = [&](int k) {
            const __m512 w = exp2(_mm512_load_ps(scores[k] + column) - now);
            return Some ? _mm512_maskz_mov_ps(seen(k), w) : w;
        };
        const __m512i pairs = _mm512_permutexvar_epi16(
            interleave, bits(_mm512_cvtne2ps_pbh(weight(key + 1), weight(key))));
        _mm512_store_si512(s.weights[key / kTileColumns][tile] + key % kTileColumns / 2 * 64,
                           pairs);
        // The sum is of the rounded weights: what is multiplied adds up to one.
        even_sum = even_sum + _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        odd_sum =
            odd_sum + _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
    }
    const __m512 factor = exp2(before - now);
    _mm512_store_ps(s.max + row, now);
    _mm512_store_ps(s.sum + row,
                    _mm512_fmadd_ps(_mm512_load_ps(s.sum + row), factor, even_sum + odd_sum));
    // Also where it is no number.
    if (_mm512_cmp_ps_mask(factor, _mm512_set1_ps(1), _CMP_NEQ_UQ))
        for (int d = 0; d < a.head_dim; ++d)
            _mm512_store_ps(out[d] + column, _mm512_load_ps(out[d] + column) * factor);
}

void convert_row(const float* x, float factor, int n, std::byte* out, size_t stride) {
    for (int i = 0; i < n; i += 32, out += stride)
        _mm512_storeu_si512(out, bits(_mm512_cvtne2ps_pbh((load(x + i + 16) * splat(factor)).v,
                                                          (load(x + i) * splat(factor)).v)));
}

// Keys and values of 64 positions from `key` on as operands, and on to those after them.
template <class T>
inline void unpack(const TileAttention& a, AttentionScratch& s, int begin, int end,
                   const void* const*& keys, const void* const*& values) {
    for (int t = 0; t < kPositions; ++t) {
        // Beyond the last key, and before the first tile that is seen, there is no memory.
        const bool there = t * kKvTile < end && (t + 1) * kKvTile > begin;
        if (there) unpack_keys<T>(*keys, a.head_dim, s.keys[t]);
        unpack_values<T>(*values, a.head_dim, t, there ? begin : 0, there ? end : 0, s);
        if (t * kKvTile < end) ++keys, ++values;
        for (int k = 0; there && k < a.head_dim / kTileColumns; ++k) transpose_tile(s.keys[t][k]);
    }
    for (auto& of_keys : s.values)
        for (int d = 0; d < a.head_dim / kKvTile; ++d) transpose_tile(of_keys[d]);
}

template <class T>
void attention(const TileAttention& a) {
    auto& s = *reinterpret_cast<AttentionScratch*>(a.scratch);
    const int rows = a.tokens * a.heads, depth = a.head_dim / kTileColumns;
    const int pairs = (rows + kPairRows - 1) / kPairRows;
    // Scores are powers of two.
    const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(a.head_dim));
    for (int r = 0, token = 0, head = 0; r < pairs * kPairRows; ++r) {
        const bool there = r < rows;
        s.max[r] = there ? a.sinks[head] * kLog2E : 0;
        s.sum[r] = 1;
        s.position[r] = there ? a.position + token : -1;
        std::byte* to = s.q[r / kTileRows][0] + r % kTileRows * 64;
        if (there)
            convert_row(a.q + token * a.q_stride + head * a.head_dim, scale, a.head_dim, to,
                        kTileBytes);
        else
            for (int k = 0; k < depth; ++k)
                _mm512_store_si512(to + k * kTileBytes, _mm512_setzero_si512());
        if (++head == a.heads) head = 0, ++token;
    }
    for (int tile = 0; tile < 2 * pairs; ++tile)
        for (int k = 0; k < depth; ++k) transpose_tile(s.q[tile][k]);
    for (int pair = 0; pair < pairs; ++pair)
        for (int d = 0; d < a.head_dim; ++d)
            for (int i = 0; i < kPairRows; i += 16) store(s.out[pair][d] + i, splat(0));
    const int last = a.position + a.tokens - 1;
    const Seen first_sees = seen_by(a.position, a.window, a.origin);
    const void *const *keys = a.keys, *const *values = a.values;
    for (int key = a.origin; key <= last; key += kTileKeys) {
        unpack<T>(a, s, key == a.origin ? first_sees.begin : 0, last + 1 - key, keys, values);
        const auto oldest = [&](int pair) {
            return seen_by(s.position[pair * kPairRows], a.window, key);
        };
        const auto newest = [&](int pair) {
            const int after = (pair + 1) * kPairRows;
            return seen_by(s.position[(rows < after ? rows : after) - 1], a.window, key);
        };
        int pair = 0, end = pairs;
        while (pair < end && newest(pair).end <= 0) ++pair;
        while (end > pair && oldest(end - 1).begin >= kTileKeys) --end;
        if (pair < end) score(s, pair, depth, s.scores[pair % 2]);
        for (; pair < end; ++pair) {
            // The next rows' products run beside these rows' exponentials.
            if (pair + 1 < end) score(s, pair + 1, depth, s.scores[(pair + 1) % 2]);
            const bool all = newest(pair).begin == 0 && oldest(pair).end == kTileKeys &&
                             (pair + 1) * kPairRows <= rows;
            for (int tile = 0; tile < 2; ++tile)
                (all ? weigh<false> : weigh<true>)(a, s, pair * kPairRows + tile * kTileRows, key,
                                                   s.scores[pair % 2], s.out[pair], tile);
            add_values(s, s.out[pair], a.head_dim);
        }
    }
    for (int first = 0; first < rows; first += kTileRows) {
        const __m512 total = _mm512_load_ps(s.sum + first);
        for (int d = 0; d < a.head_dim; d += 16) {
            __m512i of_rows[16];
            for (int i = 0; i < 16; ++i)
                of_rows[i] = _mm512_castps_si512(
                    _mm512_load_ps(s.out[first / kPairRows][d + i] + first % kPairRows) / total);
            transpose(of_rows);
            for (int r = first; r < rows && r < first + kTileRows; ++r)
                _mm512_storeu_si512(a.out + r / a.heads * a.q_stride + r % a.heads * a.head_dim + d,
                                    of_rows[r - first]);
        }
    }
}

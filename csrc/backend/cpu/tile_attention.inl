// Attention of a block of tokens over their keys, 64 at a time, with a running softmax that begins
// with the sinks. Included by kernels_amx.cpp.
//
// Rows are (token, query head). Keys are cut at multiples of 64 positions, and for a row that sees
// none of them 64 keys change nothing, so that a row's result does not depend on its block.

constexpr int kPositions = kTileKeys / kKvTile;  // tiles of the cache taken at once
constexpr int kMostHeadSize = 64;

struct AttentionScratch {
    alignas(64) std::byte q[kMostQueryRows / kTileRows][kMostHeadSize / kTileColumns][kTileBytes];
    alignas(64) std::byte keys[kPositions][kMostHeadSize / kTileColumns][kTileBytes];
    alignas(64) std::byte values[kTileKeys / kTileColumns][kMostHeadSize / kKvTile][kTileBytes];
    alignas(64) std::byte weights[2][kTileKeys / kTileColumns][kTileBytes];  // of two row tiles
    alignas(64) float scores[2 * kTileRows][kTileKeys];
    alignas(64) float max[kMostQueryRows], sum[kMostQueryRows], factor[2 * kTileRows];
    alignas(64) float out[kMostQueryRows * kMostHeadSize];  // [rows][head_dim]
};
static_assert(sizeof(AttentionScratch) <= kAttentionBytes);

inline __m512i bits(__m512bh x) { return reinterpret_cast<__m512i&>(x); }

// 16 float16 of two rows each, as 16 pairs of bf16.
inline __m512i bf16_pairs(__m256i even, __m256i odd) {
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_cvtph_ps(odd), _mm512_cvtph_ps(even));
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, bits(both));
}

inline __m256i load_half(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

// Keys [head_dim][16] of one tile of the cache.
inline void unpack_keys(const void* keys, int head_dim, std::byte (*to)[kTileBytes]) {
    const auto* from = static_cast<const f16*>(keys);
    for (int d = 0; d < head_dim; d += 2)
        _mm512_store_si512(
            to[d / kTileColumns] + d % kTileColumns / 2 * 64,
            bf16_pairs(load_half(from + d * kKvTile), load_half(from + (d + 1) * kKvTile)));
}

// Values [16][head_dim] of tile `tile` of the 64 keys; zero where no token sees them: there may be
// anything.
inline void unpack_values(const void* values, int head_dim, int tile, int begin, int end,
                          AttentionScratch& s) {
    const auto* from = static_cast<const f16*>(values);
    const auto load_or_zero = [&](int key, int d) {
        const int place = tile * kKvTile + key;
        const bool seen = begin <= place && place < end;
        return seen ? load_half(from + key * head_dim + d) : _mm256_setzero_si256();
    };
    for (int d = 0; d < head_dim; d += 16)
        for (int key = 0; key < kKvTile; key += 2) {
            const int row = (tile % 2 * kKvTile + key) / 2;
            _mm512_store_si512(s.values[tile / 2][d / 16] + row * 64,
                               bf16_pairs(load_or_zero(key, d), load_or_zero(key + 1, d)));
        }
}

// Queries of two row tiles against the keys.
inline void score(const std::byte (*q)[kMostHeadSize / kTileColumns][kTileBytes],
                  AttentionScratch& s, int tile, int depth) {
    for (int t = 0; t < 4; t += 2) {
        tile_zero<0>();
        tile_zero<1>();
        tile_zero<2>();
        tile_zero<3>();
        for (int k = 0; k < depth; ++k) {
            tile_load<4>(q[tile][k], 64);
            tile_load<5>(q[tile + 1][k], 64);
            tile_load<6>(s.keys[t][k], 64);
            tile_load<7>(s.keys[t + 1][k], 64);
            tile_multiply<0, 4, 6>();
            tile_multiply<1, 4, 7>();
            tile_multiply<2, 5, 6>();
            tile_multiply<3, 5, 7>();
        }
        constexpr int kStride = kTileKeys * 4;
        tile_store<0>(s.scores[0] + t * kKvTile, kStride);
        tile_store<1>(s.scores[0] + (t + 1) * kKvTile, kStride);
        tile_store<2>(s.scores[kTileRows] + t * kKvTile, kStride);
        tile_store<3>(s.scores[kTileRows] + (t + 1) * kKvTile, kStride);
    }
}

// Adds the weighted values of two row tiles to `out`.
inline void add_values(AttentionScratch& s, float* out, int head_dim) {
    const int stride = head_dim * 4;
    float* below = out + kTileRows * head_dim;
    for (int d = 0; d < head_dim; d += 32) {
        tile_load<0>(out + d, stride);
        tile_load<1>(out + d + 16, stride);
        tile_load<2>(below + d, stride);
        tile_load<3>(below + d + 16, stride);
        for (int k = 0; k < kTileKeys / kTileColumns; ++k) {
            tile_load<4>(s.weights[0][k], 64);
            tile_load<5>(s.weights[1][k], 64);
            tile_load<6>(s.values[k][d / 16], 64);
            tile_load<7>(s.values[k][d / 16 + 1], 64);
            tile_multiply<0, 4, 6>();
            tile_multiply<1, 4, 7>();
            tile_multiply<2, 5, 6>();
            tile_multiply<3, 5, 7>();
        }
        tile_store<0>(out + d, stride);
        tile_store<1>(out + d + 16, stride);
        tile_store<2>(below + d, stride);
        tile_store<3>(below + d + 16, stride);
    }
}

// The keys a row sees of the 64, as [begin, end).
struct Seen {
    int begin, end;
};

inline Seen seen_of(const TileAttention& a, int row, int first_key) {
    const int position = a.position + row / a.heads;
    const int oldest = a.window && position - a.window + 1 > 0 ? position - a.window + 1 : 0;
    const int begin = oldest - first_key, end = position + 1 - first_key;
    return {begin > 0 ? begin : 0, end < kTileKeys ? end : kTileKeys};
}

// Scores of rows [row, row + count) to weights; the running maximum, sum and output follow.
inline void weigh(const TileAttention& a, AttentionScratch& s, int row, int count, int first_key) {
    const F32x16 lowest = splat(-__builtin_inff());
    float largest[2 * kTileRows];
    for (int r = 0; r < count; ++r) {
        const Seen seen = seen_of(a, row + r, first_key);
        float* scores = s.scores[r];
        if (seen.begin > 0 || seen.end < kTileKeys)
            for (int i = 0; i < kTileKeys; i += 16)
                store(scores + i, keep(load(scores + i), seen.begin - i, seen.end - i, lowest));
        largest[r] = max(
            max(max(load(scores), load(scores + 16)), max(load(scores + 32), load(scores + 48))));
    }
    for (int r = count; r < 2 * kTileRows; ++r) largest[r] = 0;
    for (int r = 0; r < 2 * kTileRows; r += 16) {
        const F32x16 before = load(s.max + row + r);
        // With the new ones second, a NaN stays one.
        const F32x16 now = max(before, load(largest + r));
        store(s.factor + r, exp(before - now));
        store(s.max + row + r, now);
    }
    for (int r = 0; r < count; ++r) {
        const F32x16 now = splat(s.max[row + r]);
        F32x16 total = splat(0);
        for (int k = 0; k < kTileKeys / kTileColumns; ++k) {
            const float* scores = s.scores[r] + k * kTileColumns;
            const __m512i weights = bits(
                _mm512_cvtne2ps_pbh(exp(load(scores + 16) - now).v, exp(load(scores) - now).v));
            _mm512_store_si512(s.weights[r / kTileRows][k] + r % kTileRows * 64, weights);
            // The sum is of the rounded weights: what is multiplied adds up to one.
            F32x16 even, odd;
            even.v = _mm512_castsi512_ps(_mm512_slli_epi32(weights, 16));
            odd.v = _mm512_castsi512_ps(_mm512_and_si512(weights, _mm512_set1_epi32(0xffff0000)));
            total = total + (even + odd);
        }
        const float factor = s.factor[r];
        s.sum[row + r] = s.sum[row + r] * factor + sum(total);
        if (factor != 1) {
            float* out = s.out + (row + r) * a.head_dim;
            for (int d = 0; d < a.head_dim; d += 16) store(out + d, load(out + d) * splat(factor));
        }
    }
}

void convert_row(const float* x, float factor, int n, std::byte* out, size_t stride) {
    for (int i = 0; i < n; i += 32, out += stride)
        _mm512_storeu_si512(out, bits(_mm512_cvtne2ps_pbh((load(x + i + 16) * splat(factor)).v,
                                                          (load(x + i) * splat(factor)).v)));
}

void attention(const TileAttention& a) {
    auto& s = *reinterpret_cast<AttentionScratch*>(a.scratch);
    const int rows = a.tokens * a.heads, depth = a.head_dim / kTileColumns;
    const int padded = (rows + 2 * kTileRows - 1) / (2 * kTileRows) * 2 * kTileRows;
    const float scale = 1 / __builtin_sqrtf(static_cast<float>(a.head_dim));
    for (int r = 0; r < padded; ++r) {
        s.max[r] = r < rows ? a.sinks[r % a.heads] : 0;
        s.sum[r] = 1;
        const float* q = a.q + r / a.heads * a.q_stride + r % a.heads * a.head_dim;
        std::byte* to = s.q[r / kTileRows][0] + r % kTileRows * 64;
        if (r < rows)
            convert_row(q, scale, a.head_dim, to, kTileBytes);
        else
            for (int k = 0; k < depth; ++k)
                _mm512_store_si512(to + k * kTileBytes, _mm512_setzero_si512());
    }
    for (int i = 0; i < padded * a.head_dim; i += 16) store(s.out + i, splat(0));
    const int last = a.position + a.tokens - 1;
    const Seen first_sees = seen_of(a, 0, a.origin);
    const void *const *keys = a.keys, *const *values = a.values;
    for (int key = a.origin; key <= last; key += kTileKeys) {
        const int begin = key == a.origin ? first_sees.begin : 0, end = last + 1 - key;
        for (int t = 0; t < kPositions; ++t) {
            // Beyond the last key, and before the first tile that is seen, there is no memory.
            const bool there = t * kKvTile < end && (t + 1) * kKvTile > begin;
            if (there) unpack_keys(*keys, a.head_dim, s.keys[t]);
            unpack_values(*values, a.head_dim, t, there ? begin : 0, there ? end : 0, s);
            if (t * kKvTile < end) ++keys, ++values;
        }
        for (int row = 0; row < rows; row += 2 * kTileRows) {
            const int count = rows - row < 2 * kTileRows ? rows - row : 2 * kTileRows;
            const Seen oldest = seen_of(a, row, key), newest = seen_of(a, row + count - 1, key);
            if (newest.end <= 0 || oldest.begin >= kTileKeys) continue;
            score(s.q, s, row / kTileRows, depth);
            weigh(a, s, row, count, key);
            add_values(s, s.out + row * a.head_dim, a.head_dim);
        }
    }
    for (int r = 0; r < rows; ++r) {
        float* to = a.out + r / a.heads * a.q_stride + r % a.heads * a.head_dim;
        const F32x16 total = splat(s.sum[r]);
        for (int d = 0; d < a.head_dim; d += 16)
            store(to + d, load(s.out + r * a.head_dim + d) / total);
    }
}

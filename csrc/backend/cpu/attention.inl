// Attention of one query position over up to kUnitTiles tiles of 16 keys, all query heads of one
// KV head together, so that each key and value is read and widened once for a group of heads.
// Included once for each instruction set, inside its namespace, after row.inl.
//
// Scores stand 16 positions to a vector; a value's head_dim elements do. Lanes outside
// [begin, end) may hold anything, NaN included: they are replaced before use, or never loaded.

// What load_kv takes at once of a type, and what its values are to be multiplied by.
template <class T>
constexpr int kKvVectors = 1;
template <>
constexpr int kKvVectors<fp8> = kFp8Vectors;
template <class T>
constexpr float kKvUnit = 1;
template <>
constexpr float kKvUnit<fp8> = kFp8Unit;

inline void load_kv(const float* p, F32x16* out) { *out = load(p); }
inline void load_kv(const f16* p, F32x16* out) { *out = load_f16(p); }
inline void load_kv(const fp8* p, F32x16* out) { load_fp8(p, out); }

template <class T>
inline F32x16 in_units(F32x16 x) {
    if constexpr (kKvUnit<T> != 1) return x * splat(kKvUnit<T>);
    return x;
}

// What is needed later comes to the second cache line by line, between the sums: all at once it
// would fill the core's queue of misses and stop the sums.
template <size_t kBytes>
inline void prefetch_bytes(const void* p) {
    for (size_t i = 0; i < kBytes; i += 64) prefetch_l2(static_cast<const std::byte*>(p) + i);
}

// N tiles from tile t on. (GCC keeps sums in registers only if the array has one dimension.)
template <int G, int N, class T>
inline void score_tiles(const AttentionUnit& u, int head, int t) {
    const float* q = u.q + head * u.head_dim;
    const T* keys[N];
    each<N>([&](int n) { keys[n] = reinterpret_cast<const T*>(u.keys[t + n]); });
    F32x16 score[N * G];
    each<N * G>([&](int i) { score[i] = splat(0); });
    constexpr int kD = kKvVectors<T>;  // dimensions at once
    constexpr size_t kBytes = kKvTile * sizeof(T) * kD;
    for (int d = 0; d < u.head_dim; d += kD) {
        F32x16 key[N * kD];
        each<N>([&](int n) {
            load_kv(keys[n] + kKvTile * d, key + n * kD);
            prefetch_bytes<kBytes>(u.values[t + n] + kBytes / kD * d);
        });
        each<kD>([&](int e) {
            each<N * G>([&](int i) {
                score[i] = fma(key[i / G * kD + e], splat(q[i % G * u.head_dim + d + e]), score[i]);
            });
        });
    }
    // Nothing else here: with more in it GCC kept the sums in memory.
    each<N * G>([&](int i) {
        store(u.scores + ((head + i % G) * u.tiles + t + i / G) * kKvTile, in_units<T>(score[i]));
    });
}

template <int G, class T>
void score_heads(const AttentionUnit& u, int head) {
    int t = 0;
    for (; t + kTilesAtOnce <= u.tiles; t += kTilesAtOnce)
        score_tiles<G, kTilesAtOnce, T>(u, head, t);
    for (; t < u.tiles; ++t) score_tiles<G, 1, T>(u, head, t);
}

inline void weigh_scores(const AttentionUnit& u, int head) {
    float* scores = u.scores + head * u.tiles * kKvTile;
    F32x16 largest = splat(-__builtin_inff());
    for (int t = 0; t < u.tiles; ++t) {
        F32x16 score = load(scores + kKvTile * t);
        const int begin = u.begin - kKvTile * t, end = u.end - kKvTile * t;
        if (begin > 0 || end < kKvTile) {
            score = keep(score, begin, end, splat(-__builtin_inff()));
            store(scores + kKvTile * t, score);
        }
        largest = max(largest, score);
    }
    u.max[head] = max(largest);
    largest = splat(u.max[head]);
    F32x16 total = splat(0);
    for (int t = 0; t < u.tiles; ++t) {
        const F32x16 weight = exp(load(scores + kKvTile * t) - largest);
        store(scores + kKvTile * t, weight);
        total = total + weight;
    }
    u.sum[head] = sum(total);
}

// Some elements of each value at a time, a line of float16 where there are registers for it.
template <int G, class T>
void sum_values(const AttentionUnit& u, int head) {
    constexpr int kVectors = kTilesAtOnce, kElements = 16 * kVectors;
    constexpr size_t kBytes = kElements * sizeof(T);
    const int passes = u.head_dim / kElements;
    for (int pass = 0; pass < passes; ++pass) {
        const int d = pass * kElements;
        F32x16 out[kVectors * G];
        each<kVectors * G>([&](int i) { out[i] = splat(0); });
        for (int t = u.begin / kKvTile; t < u.tiles; ++t) {
            const std::byte* next = u.keys[t < u.next_tiles ? u.tiles + t : t];
            next += kBytes * kKvTile * pass;
            const T* values = reinterpret_cast<const T*>(u.values[t]) + d;
            const float* scores = u.scores + (head * u.tiles + t) * kKvTile;
            const int begin = u.begin > kKvTile * t ? u.begin - kKvTile * t : 0;
            const int end = u.end < kKvTile * (t + 1) ? u.end - kKvTile * t : kKvTile;
            for (int position = begin; position < end; ++position) {
                prefetch_bytes<kBytes>(next + kBytes * position);
                F32x16 value[kVectors];
                each<kVectors / kKvVectors<T>>([&](int n) {
                    const int at = n * kKvVectors<T>;
                    load_kv(values + position * u.head_dim + 16 * at, value + at);
                });
                each<kVectors * G>([&](int i) {
                    const float weight = scores[i % G * u.tiles * kKvTile + position];
                    out[i] = fma(value[i / G], splat(weight), out[i]);
                });
            }
        }
        each<kVectors * G>([&](int i) {
            store(u.out + (head + i % G) * u.head_dim + d + 16 * (i / G), in_units<T>(out[i]));
        });
    }
}

template <int G, class T>
void attend_heads(const AttentionUnit& u, int head) {
    score_heads<G, T>(u, head);
    for (int g = 0; g < G; ++g) weigh_scores(u, head + g);
    sum_values<G, T>(u, head);
}

// Groups are chosen by the number of heads alone; a head's own arithmetic is the same in each.
template <class T>
void attention(const AttentionUnit& u) {
    int head = 0;
    for (; head + kHeadGroup <= u.heads; head += kHeadGroup) attend_heads<kHeadGroup, T>(u, head);
    for (; head < u.heads; ++head) attend_heads<1, T>(u, head);
}

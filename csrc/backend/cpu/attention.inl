// Attention of one query position over up to kUnitTiles tiles of 16 keys, all query heads of one
// KV head together, so that each key and value is read and widened once for a group of heads.
// Included once for each instruction set, inside its namespace, after row.inl.
//
// Scores stand 16 positions to a vector; a value's head_dim elements do. Lanes outside
// [begin, end) may hold anything, NaN included: they are replaced before use, or never loaded.

inline F32x16 load_kv(const float* p) { return load(p); }
inline F32x16 load_kv(const f16* p) { return load_f16(p); }

template <int G, class T>
void score_heads(const AttentionUnit& u, int head) {
    const float lowest = -__builtin_inff();
    F32x16 largest[G];
    each<G>([&](int g) { largest[g] = splat(lowest); });
    for (int t = 0; t < u.tiles; ++t) {
        const T* keys = reinterpret_cast<const T*>(u.keys[t]);
        F32x16 score[G];
        each<G>([&](int g) { score[g] = splat(0); });
        for (int d = 0; d < u.head_dim; ++d) {
            const F32x16 key = load_kv(keys + kKvTile * d);
            each<G>([&](int g) {
                score[g] = fma(key, splat(u.q[(head + g) * u.head_dim + d]), score[g]);
            });
        }
        const int begin = u.begin - kKvTile * t, end = u.end - kKvTile * t;
        each<G>([&](int g) {
            score[g] = keep(score[g], begin, end, splat(lowest));
            largest[g] = max(largest[g], score[g]);
            store(u.scores + ((head + g) * u.tiles + t) * kKvTile, score[g]);
        });
    }
    each<G>([&](int g) { u.max[head + g] = max(largest[g]); });
}

inline void weigh_scores(const AttentionUnit& u, int head) {
    float* scores = u.scores + head * u.tiles * kKvTile;
    const F32x16 largest = splat(u.max[head]);
    F32x16 total = splat(0);
    for (int t = 0; t < u.tiles; ++t) {
        const F32x16 weight = exp(load(scores + kKvTile * t) - largest);
        store(scores + kKvTile * t, weight);
        total = total + weight;
    }
    u.sum[head] = sum(total);
}

template <int G, class T>
void sum_values(const AttentionUnit& u, int head) {
    for (int d = 0; d < u.head_dim; d += 16) {
        F32x16 out[G];
        each<G>([&](int g) { out[g] = splat(0); });
        for (int position = u.begin; position < u.end; ++position) {
            const T* values = reinterpret_cast<const T*>(u.values[position / kKvTile]);
            const F32x16 value = load_kv(values + position % kKvTile * u.head_dim + d);
            each<G>([&](int g) {
                const float weight = u.scores[(head + g) * u.tiles * kKvTile + position];
                out[g] = fma(value, splat(weight), out[g]);
            });
        }
        each<G>([&](int g) { store(u.out + (head + g) * u.head_dim + d, out[g]); });
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

// The attention stage: each query position and KV head over units of 1024 positions, cut at
// multiples of 1024 so that a position's sum never depends on how the prompt was fed. Units are
// merged in order, by one thread or after many; the sink is the state the merging starts from.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "backend/kv_slot.h"

namespace gptoss::cpu {
namespace {

constexpr int kUnitPositions = kUnitTiles * kKvTile;

// The keys one position sees, by units.
struct Span {
    int first, last;  // positions, both seen
    int first_unit() const { return first / kUnitPositions; }
    int units() const { return last / kUnitPositions - first_unit() + 1; }
};

Span span(const AttentionArgs& a, int64_t t) {
    const int last = a.rows[t].position;
    return {a.kv.window ? std::max(0, last - a.kv.window + 1) : 0, last};
}

// The running softmax of the query heads of one KV head.
struct State {
    float* max;  // [heads]
    float* sum;  // [heads]
    float* out;  // [heads][head_dim]
    int heads, head_dim;
};

State state_at(float* memory, int heads, int head_dim) {
    return {memory, memory + heads, memory + 2 * heads, heads, head_dim};
}

void begin_with_sinks(const State& s, const float* sinks) {
    for (int h = 0; h < s.heads; ++h) {
        s.max[h] = sinks[h];
        s.sum[h] = 1;
    }
    std::fill(s.out, s.out + s.heads * s.head_dim, 0.0f);
}

void merge(const State& s, const State& unit) {
    for (int h = 0; h < s.heads; ++h) {
        const float max = std::max(s.max[h], unit.max[h]);
        const float mine = std::exp(s.max[h] - max), theirs = std::exp(unit.max[h] - max);
        s.max[h] = max;
        s.sum[h] = s.sum[h] * mine + unit.sum[h] * theirs;
        float* out = s.out + h * s.head_dim;
        const float* more = unit.out + h * s.head_dim;
        for (int d = 0; d < s.head_dim; ++d) out[d] = out[d] * mine + more[d] * theirs;
    }
}

void finish(const State& s, float* out) {
    for (int h = 0; h < s.heads; ++h)
        for (int d = 0; d < s.head_dim; ++d)
            out[h * s.head_dim + d] = s.out[h * s.head_dim + d] / s.sum[h];
}

void attend_unit(const Kernels& kernels, const AttentionArgs& a, int64_t t, int kv_head, int unit,
                 float* scores, const State& out) {
    const Span seen = span(a, t);
    const int number = seen.first_unit() + unit;
    const int first = std::max(seen.first, number * kUnitPositions);
    const int last = std::min(seen.last, (number + 1) * kUnitPositions - 1);
    const int origin = first / kKvTile * kKvTile;
    const std::byte *keys[2 * kUnitTiles], *values[kUnitTiles];
    const auto slot_at = [&](int position) {
        return kv_slot(*a.rows[t].kv, a.kv, position, kv_head, a.kv_heads, a.head_dim);
    };
    int tiles = 0, next_tiles = 0;
    for (int position = origin; position <= last; position += kKvTile, ++tiles) {
        const KvSlot slot = slot_at(position);
        keys[tiles] = slot.key_tile;
        values[tiles] = slot.value_tile;
    }
    const int next_last = std::min(seen.last, last + kUnitPositions);
    for (int position = last + 1; position <= next_last; position += kKvTile, ++next_tiles)
        keys[tiles + next_tiles] = slot_at(position).key_tile;
    float q[kMaxHeadsPerKv * kMostHeadDim];
    const float scale = 1 / std::sqrt(static_cast<float>(a.head_dim));
    const int width = out.heads * a.head_dim;
    const float* from = a.q + (t * a.kv_heads + kv_head) * width;
    for (int i = 0; i < width; ++i) q[i] = from[i] * scale;
    AttentionUnit u;
    u.q = q;
    u.keys = keys;
    u.values = values;
    u.scores = scores;
    u.max = out.max;
    u.sum = out.sum;
    u.out = out.out;
    u.heads = out.heads;
    u.head_dim = a.head_dim;
    u.tiles = tiles;
    u.next_tiles = next_tiles;
    u.begin = first - origin;
    u.end = last + 1 - origin;
    switch (a.kv.type) {
        case DType::kFp8: return kernels.attention_fp8(u);
        case DType::kF16: return kernels.attention_f16(u);
        default: return kernels.attention_float(u);
    }
}

}  // namespace

void CpuBackend::attention(const AttentionArgs& a) {
    if (prompt_tiles_ && a.form == Form::kPrefill) return attention_tiled(a);
    const int heads = a.heads / a.kv_heads;
    const int64_t pairs = int64_t(a.tokens) * a.kv_heads;
    const auto merge_pair = [&](int64_t pair, const auto& unit_state) {
        const int64_t t = pair / a.kv_heads;
        const int kv_head = static_cast<int>(pair % a.kv_heads);
        float memory[kMaxHeadsPerKv * (kMostHeadDim + 2)];
        const State state = state_at(memory, heads, a.head_dim);
        begin_with_sinks(state, a.sinks + kv_head * heads);
        for (int u = 0; u < span(a, t).units(); ++u) merge(state, unit_state(t, kv_head, u));
        finish(state, a.out + pair * heads * a.head_dim);
    };
    if (pairs >= kSplitBelow * pool_.threads()) {
        pool_.run(pairs, [&](int64_t pair, int thread) {
            float memory[kMaxHeadsPerKv * (kMostHeadDim + 2)];
            const State unit = state_at(memory, heads, a.head_dim);
            merge_pair(pair, [&](int64_t t, int kv_head, int u) {
                attend_unit(kernels_, a, t, kv_head, u,
                            scratch_.scores + thread * scratch_.scores_stride, unit);
                return unit;
            });
        });
        return;
    }
    // Few rows: the units of one row go to many threads first.
    const auto unit_at = [&](int64_t pair, int u) {
        return state_at(scratch_.units + (pair * scratch_.most_units + u) * scratch_.unit_floats,
                        heads, a.head_dim);
    };
    int units = 0;
    for (int64_t t = 0; t < a.tokens; ++t) units = std::max(units, span(a, t).units());
    pool_.run(pairs * units, [&](int64_t task, int thread) {
        const int64_t pair = task / units, t = pair / a.kv_heads;
        const int u = static_cast<int>(task % units);
        if (u >= span(a, t).units()) return;
        attend_unit(kernels_, a, t, static_cast<int>(pair % a.kv_heads), u,
                    scratch_.scores + thread * scratch_.scores_stride, unit_at(pair, u));
    });
    pool_.run(pairs, [&](int64_t pair, int) {
        merge_pair(pair, [&](int64_t, int, int u) { return unit_at(pair, u); });
    });
}

}  // namespace gptoss::cpu

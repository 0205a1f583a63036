// The stages of prompt tokens in tiles (tiles.h). Activations are rounded once a stage and copied
// to tiles, sorted by expert where there are experts; then a task is some strips of 32 weight rows
// times all rows of the step, or of the expert.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/multiply_tiles.h"
#include "backend/kv_slot.h"

namespace gptoss::cpu {
namespace {

constexpr size_t kValueBytes = sizeof(float);  // of h and act, room for any form

// Tokens of one sequence, one position after the other.
struct TokenRun {
    int first, count;
};

}  // namespace

// Pairs by expert, their rows to tiles.
template <class RowOf>
void CpuBackend::gather_tiles(const Tiles& tiles, const int* expert, int pairs, int experts,
                              int columns, RowOf row_of) {
    sort_by_expert(expert, pairs, experts);
    gathered_.clear();
    for (int e : active_) {
        tile_begin_[e] = static_cast<int>(gathered_.size());
        for (int first = begin_[e]; first < begin_[e + 1]; first += kTileRows)
            gathered_.push_back({first, std::min(kTileRows, begin_[e + 1] - first)});
    }
    pool_.run(static_cast<int64_t>(gathered_.size()), [&](int64_t tile, int) {
        for (int r = 0; r < gathered_[tile].count; ++r) {
            const TileRow from =
                plain_row(row_of(scratch_.sorted[gathered_[tile].first + r]), columns);
            const TileRow to =
                tile_row(tiles, scratch_.tiles.x, static_cast<int>(tile) * kTileRows + r, columns);
            for (int k = 0; k < columns / kTileColumns; ++k) {
                std::memcpy(to.values + k * to.stride, from.values + k * from.stride, 64);
                if (tiles.scaled) to.scales[k * to.scale_stride / sizeof(float)] = from.scales[k];
            }
        }
    });
}

template <class Use>
void CpuBackend::multiply_experts(const Tiles& tiles, const Matrix& m, Use use) {
    const int strips = m.rows / kStripRows, groups = pieces(strips, kTaskStrips);
    pool_.run(static_cast<int64_t>(active_.size()) * groups, [&](int64_t task, int thread) {
        const int e = active_[task / groups], group = static_cast<int>(task % groups);
        const int rows = begin_[e + 1] - begin_[e], all = row_tiles(rows);
        const int most = row_tiles_at_once(all);
        for (int first = 0; first < all; first += most) {
            const int row = first * kTileRows, here = std::min(most * kTileRows, rows - row);
            const int* pair = scratch_.sorted + begin_[e] + row;
            const int tile_first = tile_begin_[e] * kTileRows + row;
            multiply_strips(tiles, scratch_.tiles, m, e,
                            tile_row(tiles, scratch_.tiles.x, tile_first, m.columns).values, here,
                            group * strips / groups, (group + 1) * strips / groups, thread,
                            [&](const StripOutputs& out) { use(e, pair, out); });
        }
    });
}

void CpuBackend::moe_up_tiled(const MoeUpArgs& a, const Tiles& tiles) {
    const auto* h = static_cast<const std::byte*>(a.h);
    gather_tiles(tiles, a.expert, a.tokens * a.top_k, a.experts, a.hidden,
                 [&](int pair) { return h + size_t(pair / a.top_k) * a.hidden * kValueBytes; });
    const size_t value = tiles.scaled ? sizeof(float) : sizeof(bf16);
    multiply_experts(tiles, a.weight, [&](int e, const int* pair, const StripOutputs& out) {
        const float* bias = a.bias + size_t(e) * 2 * a.inner + out.first * kStripRows;
        for (int r = 0; r < out.rows; ++r)
            tiles.swiglu(out, r, bias, a.limit,
                         static_cast<std::byte*>(a.act) + size_t(pair[r]) * a.inner * kValueBytes +
                             out.first * kPanelRows * value);
    });
    if (!tiles.scaled) return;
    // A scale is of 32 values, a strip makes 16.
    pool_.run(a.tokens * a.top_k, [&](int64_t pair, int thread) {
        std::byte* act = static_cast<std::byte*>(a.act) + pair * a.inner * kValueBytes;
        float* row = scratch_.staging + thread * scratch_.widest;
        std::memcpy(row, act, a.inner * kValueBytes);
        tiles.convert(row, a.inner, ColumnOrder::kMxfp4, plain_row(act, a.inner));
    });
}

void CpuBackend::moe_down_tiled(const MoeDownArgs& a, const Tiles& tiles) {
    const auto* act = static_cast<const std::byte*>(a.act);
    gather_tiles(tiles, a.expert, a.tokens * a.top_k, a.experts, a.inner,
                 [&](int pair) { return act + size_t(pair) * a.inner * kValueBytes; });
    multiply_experts(tiles, a.matrix, [&](int e, const int* pair, const StripOutputs& out) {
        const int first = out.first * kStripRows;
        const float* bias = a.bias + size_t(e) * a.hidden + first;
        for (int r = 0; r < out.rows; ++r) {
            float* to = scratch_.partial + size_t(pair[r]) * a.hidden + first;
            for (int strip = 0; strip < out.strips; ++strip) {
                const float* from = out.row(strip, r);
                for (int i = strip * kStripRows; i < (strip + 1) * kStripRows; ++i)
                    to[i] = *from++ + bias[i];
            }
        }
    });
}

void CpuBackend::attention_tiled(const AttentionArgs& a) {
    const int heads = a.heads / a.kv_heads, most = kMostQueryRows / heads;
    std::vector<TokenRun> runs;
    for (int t = 0; t < a.tokens; ++t) {
        const bool follows = !runs.empty() && runs.back().count < most &&
                             a.rows[t].kv == a.rows[t - 1].kv &&
                             a.rows[t].position == a.rows[t - 1].position + 1;
        if (follows)
            ++runs.back().count;
        else
            runs.push_back({t, 1});
    }
    const auto tasks = static_cast<int64_t>(runs.size()) * a.kv_heads;
    pool_.run(tasks, [&](int64_t task, int thread) {
        // Late tokens, which see most, first.
        const TokenRun& run = runs[runs.size() - 1 - task / a.kv_heads];
        const int kv_head = static_cast<int>(task % a.kv_heads);
        const Row& row = a.rows[run.first];
        TileAttention u;
        const size_t offset =
            size_t(run.first) * a.heads * a.head_dim + kv_head * heads * a.head_dim;
        u.q = a.q + offset;
        u.out = a.out + offset;
        u.q_stride = size_t(a.heads) * a.head_dim;
        u.sinks = a.sinks + kv_head * heads;
        const int oldest = a.kv.window ? std::max(0, row.position - a.kv.window + 1) : 0;
        u.origin = oldest / kTileKeys * kTileKeys;
        u.position = row.position;
        u.window = a.kv.window;
        u.tokens = run.count;
        u.heads = heads;
        u.head_dim = a.head_dim;
        const void** keys = scratch_.key_tiles + thread * 2 * scratch_.most_key_tiles;
        const void** values = keys + scratch_.most_key_tiles;
        u.keys = keys;
        u.values = values;
        for (int p = u.origin; p < row.position + run.count; p += kKvTile) {
            const KvSlot slot = kv_slot(*row.kv, a.kv, p, kv_head, a.kv_heads, a.head_dim);
            *keys++ = slot.key_tile;
            *values++ = slot.value_tile;
        }
        u.scratch = scratch_.attention + thread * kAttentionBytes;
        prompt_tiles_->begin();
        prompt_tiles_->attention(u);
        prompt_tiles_->end();
    });
}

}  // namespace gptoss::cpu

// The stages of prompt tokens on the tile unit (tiles.h). Activations are rounded to bf16 once a
// stage and copied to tiles, sorted by expert where there are experts; then a task is some strips
// of 32 weight rows times all rows of the step, or of the expert.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/tiles.h"
#include "backend/kv_slot.h"

namespace gptoss::cpu {
namespace {

constexpr int kTaskStrips = 15;

WeightStrip strip_of(const Matrix& m, int expert, int strip) {
    const int panels = panel_count(m.rows);
    WeightStrip out;
    for (int i = 0; i < 2; ++i) {
        const size_t panel = 2 * strip + i;
        out.data[i] = m.data + expert * m.data_stride + m.data_stride / panels * panel;
        out.scales[i] = m.scales
                            ? m.scales + expert * m.scale_stride + m.scale_stride / panels * panel
                            : nullptr;
    }
    return out;
}

int pieces(int count, int most) { return (count + most - 1) / most; }

// Tokens of one sequence, one position after the other.
struct TokenRun {
    int first, count;
};

}  // namespace

const Tiles* tiles() {
#ifdef GPTOSS_X86
    return &amx::kTiles;
#else
    return nullptr;
#endif
}

template <class Use>
void CpuBackend::multiply_strips(const Matrix& m, int expert, const std::byte* x, int row_tiles,
                                 int begin, int end, int thread, Use use) {
    TileProduct p;
    p.format = m.format;
    p.x = x;
    p.columns = m.columns;
    p.row_tiles = row_tiles;
    p.out = scratch_.tile_out + thread * size_t{kMostRowTiles * kTileRows * kStripRows};
    p.unpacked = scratch_.unpacked + thread * kUnpackedBytes;
    p.ready = -1;
    p.next = strip_of(m, expert, begin);
    tiles_->begin();
    for (int strip = begin; strip < end; ++strip) {
        p.strip = p.next;
        p.next = strip + 1 < end ? strip_of(m, expert, strip + 1) : WeightStrip{};
        tiles_->product(p);
        use(strip, p.out);
    }
    tiles_->end();
}

template <class Use>
void CpuBackend::multiply_tiled(const Matrix& m, int rows, Use use) {
    const int all = row_tiles(rows), passes = pieces(all, kMostRowTiles);
    const int most = pieces(all, passes), strips = m.rows / kStripRows;
    const int groups = pieces(strips, std::clamp(strips / (8 * pool_.threads()), 1, kTaskStrips));
    pool_.run(int64_t(passes) * groups, [&](int64_t task, int thread) {
        const int first = static_cast<int>(task / groups) * most;
        const int group = static_cast<int>(task % groups), count = std::min(most, all - first);
        const std::byte* x = scratch_.tile_x + tile_row_offset(first * kTileRows, 0, m.columns);
        multiply_strips(m, 0, x, count, group * strips / groups, (group + 1) * strips / groups,
                        thread, [&](int strip, const float* out) {
                            const int row = first * kTileRows;
                            const int end = std::min(rows, row + count * kTileRows);
                            for (int r = row; r < end; ++r, out += kStripRows)
                                use(r, strip * kStripRows, out);
                        });
    });
}

void CpuBackend::qkv_tiled(const QkvArgs& a) {
    pool_.run(a.tokens, [&](int64_t t, int thread) {
        float* row = scratch_.staging + thread * scratch_.widest;
        kernels_.rms_norm(a.x + t * a.hidden, a.norm, a.hidden, a.eps, row);
        tiles_->convert(row, a.hidden, ColumnOrder::kPlain,
                        scratch_.tile_x + tile_row_offset(static_cast<int>(t), 0, a.hidden),
                        kTileBytes);
    });
    multiply_tiled(a.weight, a.tokens, [&](int t, int first, const float* values) {
        float* out = scratch_.qkv + size_t(t) * a.weight.rows + first;
        for (int i = 0; i < kStripRows; ++i) out[i] = values[i] + a.bias[first + i];
    });
}

void CpuBackend::attn_out_tiled(const AttnOutArgs& a) {
    pool_.run(a.tokens, [&](int64_t t, int) {
        tiles_->convert(a.attention + t * a.columns, a.columns, ColumnOrder::kPlain,
                        scratch_.tile_x + tile_row_offset(static_cast<int>(t), 0, a.columns),
                        kTileBytes);
    });
    multiply_tiled(a.weight, a.tokens, [&](int t, int first, const float* values) {
        float* x = a.x + size_t(t) * a.hidden + first;
        for (int i = 0; i < kStripRows; ++i) x[i] += values[i] + a.bias[first + i];
    });
}

// Pairs by expert, their rows (of bf16 in the order of MXFP4) to tiles.
template <class RowOf>
void CpuBackend::gather_tiles(const int* expert, int pairs, int experts, int columns,
                              RowOf row_of) {
    sort_by_expert(expert, pairs, experts);
    gathered_.clear();
    for (int e : active_) {
        tile_begin_[e] = static_cast<int>(gathered_.size());
        for (int first = begin_[e]; first < begin_[e + 1]; first += kTileRows)
            gathered_.push_back({first, std::min(kTileRows, begin_[e + 1] - first)});
    }
    pool_.run(static_cast<int64_t>(gathered_.size()), [&](int64_t tile, int) {
        std::byte* out =
            scratch_.tile_x + tile_row_offset(static_cast<int>(tile) * kTileRows, 0, columns);
        for (int r = 0; r < gathered_[tile].count; ++r) {
            const std::byte* row = row_of(scratch_.sorted[gathered_[tile].first + r]);
            for (int k = 0; k < columns / kTileColumns; ++k)
                std::memcpy(out + k * kTileBytes + r * 64, row + k * 64, 64);
        }
    });
}

template <class Use>
void CpuBackend::multiply_experts(const Matrix& m, Use use) {
    const int strips = m.rows / kStripRows, groups = pieces(strips, kTaskStrips);
    pool_.run(static_cast<int64_t>(active_.size()) * groups, [&](int64_t task, int thread) {
        const int e = active_[task / groups], group = static_cast<int>(task % groups);
        const int rows = begin_[e + 1] - begin_[e], all = row_tiles(rows);
        const int most = pieces(all, pieces(all, kMostRowTiles));
        for (int first = 0; first < all; first += most) {
            const int count = std::min(most, all - first), row = first * kTileRows;
            const int* pair = scratch_.sorted + begin_[e] + row;
            const int here = std::min(count * kTileRows, rows - row);
            multiply_strips(m, e,
                            scratch_.tile_x +
                                tile_row_offset((tile_begin_[e] + first) * kTileRows, 0, m.columns),
                            count, group * strips / groups, (group + 1) * strips / groups, thread,
                            [&](int strip, const float* out) { use(e, strip, pair, here, out); });
        }
    });
}

void CpuBackend::moe_up_tiled(const MoeUpArgs& a) {
    const auto* h = static_cast<const std::byte*>(a.h);
    gather_tiles(a.expert, a.tokens * a.top_k, a.experts, a.hidden,
                 [&](int pair) { return h + size_t(pair / a.top_k) * a.hidden * sizeof(bf16); });
    multiply_experts(a.weight, [&](int e, int strip, const int* pair, int rows, const float* out) {
        std::byte* to[kMostRowTiles * kTileRows];
        for (int r = 0; r < rows; ++r)
            to[r] = static_cast<std::byte*>(a.act) +
                    (size_t(pair[r]) * a.inner + strip * kPanelRows) * sizeof(bf16);
        const float* bias = a.bias + size_t(e) * 2 * a.inner + strip * kStripRows;
        tiles_->swiglu(out, rows, bias, a.limit, to);
    });
}

void CpuBackend::moe_down_tiled(const MoeDownArgs& a) {
    const auto* act = static_cast<const std::byte*>(a.act);
    gather_tiles(a.expert, a.tokens * a.top_k, a.experts, a.inner,
                 [&](int pair) { return act + size_t(pair) * a.inner * sizeof(bf16); });
    multiply_experts(a.matrix, [&](int e, int strip, const int* pair, int rows, const float* out) {
        const int first = strip * kStripRows;
        const float* bias = a.bias + size_t(e) * a.hidden + first;
        for (int r = 0; r < rows; ++r, out += kStripRows) {
            float* to = scratch_.partial + size_t(pair[r]) * a.hidden + first;
            for (int i = 0; i < kStripRows; ++i) to[i] = out[i] + bias[i];
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
        tiles_->begin();
        tiles_->attention(u);
        tiles_->end();
    });
}

}  // namespace gptoss::cpu

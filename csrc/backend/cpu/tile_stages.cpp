// The stages of prompt tokens in tiles (tiles.h). Activations are rounded once a stage and copied
// to tiles, sorted by expert where there are experts; then a task is some strips of 32 weight rows
// times all rows of the step, or of the expert.
#include <algorithm>
#include <cstring>
#include <utility>

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

void CpuBackend::sort_into_blocks(const int* expert, int pairs, int experts) {
    sort_by_expert(expert, pairs, experts);
    blocks_.clear();
    int tile = 0;
    for (int e : active_) {
        const int rows = begin_[e + 1] - begin_[e];
        const int most = row_tiles_at_once(row_tiles(rows), kMostRowTiles);
        for (int first = 0; first < rows; first += most * kTileRows) {
            blocks_.push_back(
                {e, begin_[e] + first, std::min(most * kTileRows, rows - first), tile});
            tile += row_tiles(blocks_.back().rows);
        }
    }
}

template <class XOf, class Use>
void CpuBackend::multiply_experts(const Tiles& tiles, const Matrix& m, XOf x_of, Use use) {
    const int strips = m.rows / kStripRows, groups = pieces(strips, kTaskStrips);
    pool_.run(static_cast<int64_t>(blocks_.size()) * groups, [&](int64_t task, int thread) {
        const RowBlock& block = blocks_[task / groups];
        const int group = static_cast<int>(task % groups);
        multiply_strips(tiles, scratch_.tiles, m, block.expert, x_of(block, thread), block.rows,
                        group * strips / groups, (group + 1) * strips / groups, thread,
                        [&](const StripOutputs& out) { use(block, out); });
    });
}

TileRow CpuBackend::act_row(const Tiles& tiles, const RowBlock& block, int row, int inner) const {
    return tile_row(tiles, scratch_.tiles.x, block.tile * kTileRows + row, inner);
}

void CpuBackend::moe_up_tiled(const MoeUpArgs& a, const Tiles& tiles) {
    const auto* h = static_cast<const std::byte*>(a.h);
    sort_into_blocks(a.expert, a.tokens * a.top_k, a.experts);
    held_.assign(pool_.threads(), nullptr);
    // A thread's tasks in a row are of one block, mostly: it copies the rows once, next to itself.
    const auto gathered = [&](const RowBlock& block, int thread) {
        std::byte* out = scratch_.tiles.rows + thread * scratch_.tiles.rows_bytes;
        if (std::exchange(held_[thread], &block) == &block) return out;
        for (int r = 0; r < block.rows; ++r) {
            const int token = scratch_.sorted[block.first + r] / a.top_k;
            const TileRow from = plain_row(h + size_t(token) * a.hidden * kValueBytes, a.hidden);
            const TileRow to = tile_row(tiles, out, r, a.hidden);
            for (int k = 0; k < a.hidden / kTileColumns; ++k) {
                std::memcpy(to.values + k * to.stride, from.values + k * from.stride, 64);
                if (tiles.scaled) to.scales[k * to.scale_stride / sizeof(float)] = from.scales[k];
            }
        }
        return out;
    };
    auto* floats = static_cast<float*>(a.act);
    multiply_experts(
        tiles, a.weight, gathered, [&](const RowBlock& block, const StripOutputs& out) {
            const float* bias =
                a.bias + size_t(block.expert) * 2 * a.inner + out.first * kStripRows;
            for (int r = 0; r < out.rows; ++r) {
                if (tiles.scaled)
                    tiles.swiglu_float(out, r, bias, a.limit,
                                       floats + size_t(scratch_.sorted[block.first + r]) * a.inner);
                else
                    tiles.swiglu(out, r, bias, a.limit, act_row(tiles, block, r, a.inner));
            }
        });
    if (!tiles.scaled) return;
    // A scale is of 32 values, a strip makes 16.
    pool_.run(static_cast<int64_t>(blocks_.size()), [&](int64_t index, int) {
        const RowBlock& block = blocks_[index];
        for (int r = 0; r < block.rows; ++r)
            tiles.convert(floats + size_t(scratch_.sorted[block.first + r]) * a.inner, a.inner,
                          ColumnOrder::kMxfp4, act_row(tiles, block, r, a.inner));
    });
}

void CpuBackend::moe_down_tiled(const MoeDownArgs& a, const Tiles& tiles) {
    sort_into_blocks(a.expert, a.tokens * a.top_k, a.experts);
    multiply_experts(
        tiles, a.matrix,
        [&](const RowBlock& block, int) -> const std::byte* {
            return act_row(tiles, block, 0, a.inner).values;
        },
        [&](const RowBlock& block, const StripOutputs& out) {
            const int first = out.first * kStripRows;
            const float* bias = a.bias + size_t(block.expert) * a.hidden + first;
            for (int r = 0; r < out.rows; ++r) {
                const size_t pair = scratch_.sorted[block.first + r];
                float* to = scratch_.partial + pair * a.hidden + first;
                for (int strip = 0; strip < out.strips; ++strip) {
                    const float* from = out.row(strip, r);
                    for (int i = strip * kStripRows; i < (strip + 1) * kStripRows; ++i)
                        to[i] = *from++ + bias[i];
                }
            }
        });
}

void CpuBackend::read_tiled_activations(const void* own, const MoeUpArgs& args, const Tiles& tiles,
                                        int rows, int columns, float* out) {
    const auto read = [&](const TileRow& row, float* to) {
        for (int i = 0; i < columns; ++i) {
            const int tile = i / kTileColumns;
            const std::byte* value = row.values + tile * row.stride + i % kTileColumns * 2;
            to[i / 8 * 8 + kMxfp4Order[i % 8]] =
                tiles.scaled ? row.scales[tile * row.scale_stride / sizeof(float)] *
                                   *reinterpret_cast<const int16_t*>(value)
                             : to_float(*reinterpret_cast<const bf16*>(value));
        }
    };
    if (own != args.act) {
        for (int r = 0; r < rows; ++r)
            read(plain_row(static_cast<const std::byte*>(own) + size_t(r) * columns * kValueBytes,
                           columns),
                 out + size_t(r) * columns);
        return;
    }
    for (const RowBlock& block : blocks_)
        for (int r = 0; r < block.rows; ++r)
            read(act_row(tiles, block, r, columns),
                 out + size_t(scratch_.sorted[block.first + r]) * columns);
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
        (a.kv.type == DType::kFp8 ? prompt_tiles_->attention_fp8 : prompt_tiles_->attention_f16)(u);
        prompt_tiles_->end();
    });
}

}  // namespace gptoss::cpu

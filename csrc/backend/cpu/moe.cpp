// The mixture of experts: router, moe_up, moe_down. The pairs (token, slot) are sorted by expert,
// so that an expert's weights are read once a step for all of its rows.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/multiply.h"
#include "backend/cpu/multiply_tiles.h"

namespace gptoss::cpu {
namespace {

// Best first, ties to the lower id. A score that is NaN is never better, but someone must win.
void choose_experts(const float* score, int experts, int top_k, int* expert, float* weight) {
    for (int slot = 0; slot < top_k; ++slot) {
        int best = -1;
        for (int e = 0; e < experts; ++e) {
            if (std::find(expert, expert + slot, e) != expert + slot) continue;
            if (best < 0 || score[e] > score[best]) best = e;
        }
        expert[slot] = best;
    }
    float total = 0;
    for (int slot = 0; slot < top_k; ++slot)
        total += weight[slot] = std::exp(score[expert[slot]] - score[expert[0]]);
    float poison = 0;  // NaN where a score is not finite: the choice means nothing then
    for (int e = 0; e < experts; ++e) poison += score[e] - score[e];
    for (int slot = 0; slot < top_k; ++slot) weight[slot] = weight[slot] / total + poison;
}

constexpr int kMostExperts = 128;
constexpr int kGateTokens = 16;
constexpr int kTaskPanels = 4;

}  // namespace

void CpuBackend::router(const RouterArgs& a) {
    const bool blocks = activation_form(WeightFormat::kMxfp4) == ActivationForm::kBlocks;
    const Tiles* tiles = expert_tiles(a.form, a.tokens, a.top_k, a.experts);
    // Tokens that share a read of the gate; one each where there are few.
    const int group = a.tokens >= kGateTokens * pool_.threads() ? kernels_.max_rows : 1;
    pool_.run((a.tokens + group - 1) / group, [&](int64_t task, int thread) {
        const int64_t first_token = task * group;
        const int count = static_cast<int>(std::min<int64_t>(group, a.tokens - first_token));
        const void* x[kMostProductRows];
        for (int r = 0; r < count; ++r) {
            const int64_t t = first_token + r;
            auto* h = static_cast<std::byte*>(a.h) + t * a.hidden * sizeof(float);
            float* row = blocks ? scratch_.gate_rows +
                                      (size_t(thread) * kMostProductRows + r) * scratch_.widest
                                : reinterpret_cast<float*>(h);
            kernels_.rms_norm(a.x + t * a.hidden, a.norm, a.hidden, a.eps, row);
            if (tiles)
                tiles->convert(row, a.hidden, ColumnOrder::kMxfp4, plain_row(h, a.hidden));
            else if (blocks)
                kernels_.quantize(row, a.hidden, block_row(h, a.hidden), 0);
            x[r] = row;
        }
        float score[kMostProductRows][kMostExperts];
        for (int panel = 0; panel < panel_count(a.experts); ++panel) {
            float out[kMostProductRows][kPanelRows];
            multiply_panel(kernels_.bf16_float, a.gate, 0, panel, x, count, out);
            const int first = panel * kPanelRows;
            for (int r = 0; r < count; ++r)
                for (int e = first; e < std::min(first + kPanelRows, a.experts); ++e)
                    score[r][e] = out[r][e - first] + a.bias[e];
        }
        for (int r = 0; r < count; ++r) {
            const int64_t t = first_token + r;
            choose_experts(score[r], a.experts, a.top_k, a.expert + t * a.top_k,
                           a.weight + t * a.top_k);
        }
    });
}

const Tiles* CpuBackend::expert_tiles(Form form, int tokens, int top_k, int experts) const {
    return tiles(form, WeightFormat::kMxfp4, tokens * top_k >= kTiledPairs * experts);
}

void CpuBackend::read_activations(const void* own, const MoeUpArgs& args, int rows, int columns,
                                  float* out) {
    if (const Tiles* tiles = expert_tiles(args.form, args.tokens, args.top_k, args.experts))
        return read_tiled_activations(own, args, *tiles, rows, columns, out);
    const bool blocks = activation_form(WeightFormat::kMxfp4) == ActivationForm::kBlocks;
    for (int r = 0; r < rows; ++r) {
        const auto* bytes = static_cast<const std::byte*>(own) + size_t(r) * columns * 4;
        const BlockRow row = block_row(bytes, columns);
        for (int i = 0; i < columns; ++i)
            out[size_t(r) * columns + i] =
                blocks ? row.scale[i / kBlock] * static_cast<float>(256 * row.hi[i] + row.lo[i])
                       : reinterpret_cast<const float*>(bytes)[i];
    }
}

void CpuBackend::sort_by_expert(const int* expert, int pairs, int experts) {
    std::fill(begin_.begin(), begin_.end(), 0);
    for (int i = 0; i < pairs; ++i) ++begin_[expert[i] + 1];
    active_.clear();
    for (int e = 0; e < experts; ++e) {
        if (begin_[e + 1]) active_.push_back(e);
        begin_[e + 1] += begin_[e];
    }
    // Counting sort; begin_[e] walks to the end of e's part, and is shifted back after.
    for (int i = 0; i < pairs; ++i) scratch_.sorted[begin_[expert[i]]++] = i;
    for (int e = experts; e > 0; --e) begin_[e] = begin_[e - 1];
    begin_[0] = 0;
}

template <class Use>
void CpuBackend::for_each_expert(const int* expert, int pairs, int experts, int tasks, Use use) {
    sort_by_expert(expert, pairs, experts);
    pool_.run(static_cast<int64_t>(active_.size()) * tasks, [&](int64_t index, int) {
        const int e = active_[index / tasks], task = static_cast<int>(index % tasks);
        for (int first = begin_[e]; first < begin_[e + 1]; first += kernels_.max_rows)
            use(e, task, scratch_.sorted + first,
                std::min(kernels_.max_rows, begin_[e + 1] - first));
    });
}

void CpuBackend::moe_up(const MoeUpArgs& a) {
    if (const Tiles* tiles = expert_tiles(a.form, a.tokens, a.top_k, a.experts))
        return moe_up_tiled(a, *tiles);
    const bool blocks = activation_form(WeightFormat::kMxfp4) == ActivationForm::kBlocks;
    const Product product = this->product(WeightFormat::kMxfp4);
    // A task makes 32 outputs, one block: two pairs of a gate and an up panel.
    for_each_expert(
        a.expert, a.tokens * a.top_k, a.experts, a.inner / kBlock,
        [&](int e, int task, const int* pair, int rows) {
            const void* x[kMostProductRows];
            for (int r = 0; r < rows; ++r)
                x[r] = static_cast<const std::byte*>(a.h) +
                       size_t(pair[r] / a.top_k) * a.hidden * sizeof(float);
            float gate[kMostProductRows][kBlock], up[kMostProductRows][kBlock];
            for (int p = 0; p < kTaskPanels; ++p) {
                const int panel = task * kTaskPanels + p;
                float out[kMostProductRows][kPanelRows];
                multiply_panel(product, a.weight, e, panel, x, rows, out);
                const float* bias = a.bias + size_t(e) * 2 * a.inner + panel * kPanelRows;
                for (int r = 0; r < rows; ++r) {
                    float* to = (p % 2 ? up[r] : gate[r]) + p / 2 * kPanelRows;
                    for (int i = 0; i < kPanelRows; ++i) to[i] = out[r][i] + bias[i];
                }
            }
            for (int r = 0; r < rows; ++r) {
                auto* act = static_cast<std::byte*>(a.act) + size_t(pair[r]) * a.inner * 4;
                float* out = blocks ? gate[r] : reinterpret_cast<float*>(act) + task * kBlock;
                kernels_.swiglu(gate[r], up[r], kBlock, a.limit, out);
                if (blocks) kernels_.quantize(out, kBlock, block_row(act, a.inner), task);
            }
        });
}

void CpuBackend::down_products(const MoeDownArgs& a) {
    const Product product = this->product(WeightFormat::kMxfp4);
    const int panels = panel_count(a.hidden);
    for_each_expert(
        a.expert, a.tokens * a.top_k, a.experts, (panels + kTaskPanels - 1) / kTaskPanels,
        [&](int e, int task, const int* pair, int rows) {
            const void* x[kMostProductRows];
            for (int r = 0; r < rows; ++r)
                x[r] = static_cast<const std::byte*>(a.act) + size_t(pair[r]) * a.inner * 4;
            const int end = std::min((task + 1) * kTaskPanels, panels);
            for (int panel = task * kTaskPanels; panel < end; ++panel) {
                float out[kMostProductRows][kPanelRows];
                multiply_panel(product, a.matrix, e, panel, x, rows, out);
                const int first = panel * kPanelRows;
                const float* bias = a.bias + size_t(e) * a.hidden + first;
                for (int r = 0; r < rows; ++r)
                    for (int i = 0; i < kPanelRows; ++i)
                        scratch_.partial[size_t(pair[r]) * a.hidden + first + i] =
                            out[r][i] + bias[i];
            }
        });
}

void CpuBackend::moe_down(const MoeDownArgs& a) {
    if (const Tiles* tiles = expert_tiles(a.form, a.tokens, a.top_k, a.experts))
        moe_down_tiled(a, *tiles);
    else
        down_products(a);
    // Slot by slot, best expert first: the order does not follow the sorting.
    pool_.run(a.tokens, [&](int64_t t, int) {
        for (int i = 0; i < a.hidden; ++i) {
            float total = 0;
            for (int slot = 0; slot < a.top_k; ++slot) {
                const size_t pair = t * a.top_k + slot;
                total += a.weight[pair] * scratch_.partial[pair * a.hidden + i];
            }
            a.x[t * a.hidden + i] += total;
        }
    });
}

}  // namespace gptoss::cpu

#include "model/stage_runner.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "backend/kv_slot.h"
#include "base/error.h"

namespace gptoss {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

StageRunner::Floats poisoned(size_t n) { return StageRunner::Floats(n, kPoison); }

// Element d of a head's key or value, wherever the tiles put it.
std::byte* element(const KvSlot& slot, const KvLayer& layer, int head_dim, int d, bool value) {
    const size_t index = value ? slot.lane * head_dim + d : d * kKvTile + slot.lane;
    return (value ? slot.value_tile : slot.key_tile) + index * dtype_bytes(layer.type);
}

}  // namespace

StageRunner::StageRunner(Model& model, int sequences, int max_context)
    : model_(model), max_context_(max_context), pages_(std::max(sequences, 0)) {
    if (sequences < 1 || sequences > 1024)
        throw InvalidArgument(message("sequences is ", sequences, ", wanted 1 to 1024"));
    if (max_context < 1 || max_context > model.config().max_context)
        throw InvalidArgument(
            message("max_context is ", max_context, ", wanted 1 to ", model.config().max_context));
    const KvGeometry& kv = model.kv();
    for (int s = 0; s < sequences; ++s) {
        memory_.emplace_back(kv.bytes(max_context), "a sequence's cache");
        std::byte* data = memory_.back().data();
        // All ones is a NaN in float32 and in float16.
        std::memset(data, 0xff, memory_.back().size());
        for (int p = 0; p < kv.pages(max_context); ++p)
            pages_[s].push_back(data + kv.ring_bytes + p * kv.page_bytes);
        views_.push_back({pages_[s].data(), data});
    }
}

std::vector<Row> StageRunner::rows(const Positions& at, size_t tokens) const {
    if (at.size() != tokens || tokens < 1 || tokens > kStepRows)
        throw InvalidArgument(message(at.size(), " positions for ", tokens,
                                      " rows; wanted the same number, 1 to ", kStepRows));
    std::vector<Row> out;
    for (const SequencePosition& p : at) {
        if (p.sequence < 0 || p.sequence >= static_cast<int>(views_.size()) || p.position < 0 ||
            p.position >= max_context_)
            throw InvalidArgument(message("no position ", p.position, " in sequence ", p.sequence));
        out.push_back({0, p.position, &views_[p.sequence]});
    }
    return out;
}

void StageRunner::check(int layer, const Floats& values, size_t width, const char* name) const {
    if (layer < 0 || layer >= model_.config().layers)
        throw InvalidArgument(
            message("layer is ", layer, ", wanted 0 to ", model_.config().layers - 1));
    if (values.empty() || values.size() % width || values.size() / width > kStepRows)
        throw InvalidArgument(message(name, " has ", values.size(), " values, wanted 1 to ",
                                      kStepRows, " rows of ", width));
}

StageRunner::Floats StageRunner::embed(const std::vector<int>& ids) {
    Floats x = poisoned(ids.size() * model_.config().hidden_size);
    check(0, x, model_.config().hidden_size, "ids");
    std::vector<Row> rows;
    for (int id : ids) {
        if (id < 0 || id >= model_.config().vocab_size)
            throw InvalidArgument(message("token id ", id));
        rows.push_back({id, 0, &views_[0]});
    }
    model_.embed(rows, x.data());
    return x;
}

StageRunner::Floats StageRunner::qkv(int layer, const Floats& x, const Positions& at) {
    const ModelConfig& c = model_.config();
    check(layer, x, c.hidden_size, "x");
    const size_t tokens = x.size() / c.hidden_size;
    Floats q = poisoned(tokens * c.query_rows());
    model_.qkv(layer, rows(at, tokens), x.data(), q.data());
    return q;
}

StageRunner::Floats StageRunner::cached(int layer, SequencePosition at) const {
    const ModelConfig& c = model_.config();
    check(layer, {0}, 1, "layer");
    const Row row = rows({at}, 1)[0];
    const KvLayer& kv = model_.kv().layers[layer];
    Floats out;
    for (bool value : {false, true}) {
        for (int head = 0; head < c.kv_heads; ++head) {
            const KvSlot slot = kv_slot(*row.kv, kv, at.position, head, c.kv_heads, c.head_dim);
            for (int d = 0; d < c.head_dim; ++d) {
                const std::byte* p = element(slot, kv, c.head_dim, d, value);
                out.push_back(kv.type == DType::kF16 ? to_float(*reinterpret_cast<const f16*>(p))
                                                     : *reinterpret_cast<const float*>(p));
            }
        }
    }
    return out;
}

void StageRunner::set_cached(int layer, SequencePosition at, const Floats& key_value) {
    const ModelConfig& c = model_.config();
    const size_t half = size_t(c.kv_heads) * c.head_dim;
    check(layer, key_value, 2 * half, "key_value");
    const Row row = rows({at}, 1)[0];
    const KvLayer& kv = model_.kv().layers[layer];
    for (size_t i = 0; i < 2 * half; ++i) {
        const int head = static_cast<int>(i % half) / c.head_dim;
        const KvSlot slot = kv_slot(*row.kv, kv, at.position, head, c.kv_heads, c.head_dim);
        std::byte* p = element(slot, kv, c.head_dim, static_cast<int>(i) % c.head_dim, i >= half);
        if (kv.type == DType::kF16)
            *reinterpret_cast<f16*>(p) = to_f16(key_value[i]);
        else
            *reinterpret_cast<float*>(p) = key_value[i];
    }
}

StageRunner::Floats StageRunner::attention(int layer, const Floats& q, const Positions& at) {
    const size_t width = model_.config().query_rows();
    check(layer, q, width, "q");
    Floats out = poisoned(q.size());
    model_.attention(layer, rows(at, q.size() / width), q.data(), out.data());
    return out;
}

StageRunner::Floats StageRunner::attn_out(int layer, const Floats& attention, const Floats& x) {
    const ModelConfig& c = model_.config();
    check(layer, attention, c.query_rows(), "attention");
    check(layer, x, c.hidden_size, "x");
    const size_t tokens = x.size() / c.hidden_size;
    if (attention.size() / c.query_rows() != tokens)
        throw InvalidArgument("attention and x have different numbers of rows");
    Floats out = x;
    model_.attn_out(layer, static_cast<int>(tokens), attention.data(), out.data());
    return out;
}

StageRunner::Experts StageRunner::experts(int layer, const Floats& x) {
    const ModelConfig& c = model_.config();
    check(layer, x, c.hidden_size, "x");
    const int tokens = static_cast<int>(x.size()) / c.hidden_size;
    const size_t pairs = size_t(tokens) * c.experts_per_token;
    Experts out{std::vector<int>(pairs, -1), poisoned(pairs), poisoned(x.size()),
                poisoned(pairs * c.intermediate_size), x};
    Floats h = poisoned(x.size()), act = poisoned(pairs * c.intermediate_size);
    model_.router(layer, tokens, x.data(), h.data(), out.expert.data(), out.weight.data());
    model_.moe_up(layer, tokens, h.data(), out.expert.data(), act.data());
    model_.moe_down(layer, tokens, act.data(), out.expert.data(), out.weight.data(), out.x.data());
    model_.backend().read_activations(h.data(), tokens, c.hidden_size, out.h.data());
    model_.backend().read_activations(act.data(), static_cast<int>(pairs), c.intermediate_size,
                                      out.act.data());
    return out;
}

StageRunner::Floats StageRunner::logits(const Floats& x, const std::vector<int>& which) {
    const ModelConfig& c = model_.config();
    check(0, x, c.hidden_size, "x");
    for (int row : which)
        if (row < 0 || row >= static_cast<int>(x.size()) / c.hidden_size ||
            which.size() > kStepRows)
            throw InvalidArgument(message("no row ", row, ", or more than ", kStepRows));
    Floats out = poisoned(which.size() * c.vocab_size);
    model_.logits(x.data(), which, out.data());
    return out;
}

}  // namespace gptoss

#include "weights/layout.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "base/error.h"

namespace gptoss {
namespace {

using Shape = std::vector<int64_t>;

enum class Kind { kMatrix, kVector, kBytes };  // BF16; BF16 or F32; U8

struct Expected {
    std::string name;
    Kind kind;
    Shape shape;
    TensorSpec* slot;
};

// The names of one published form. A layer's names follow layer_prefix + number + ".".
struct Names {
    const char* embedding;
    const char* final_norm;
    const char* unembedding;
    const char* layer_prefix;
    const char* attention_norm;
    std::vector<const char*> qkv;  // "q", "k", "v" in order, or all in one
    const char* sinks;
    const char* attn_out;  // + ".weight", ".bias", as for qkv and router
    const char* moe_norm;
    const char* router;
    const char *up_blocks, *up_scales, *up_bias;
    const char *down_blocks, *down_scales, *down_bias;
};

const Names kHuggingFace = {
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    "model.layers.",
    "input_layernorm.weight",
    {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
    "self_attn.sinks",
    "self_attn.o_proj",
    "post_attention_layernorm.weight",
    "mlp.router",
    "mlp.experts.gate_up_proj_blocks",
    "mlp.experts.gate_up_proj_scales",
    "mlp.experts.gate_up_proj_bias",
    "mlp.experts.down_proj_blocks",
    "mlp.experts.down_proj_scales",
    "mlp.experts.down_proj_bias",
};

const Names kOpenAi = {
    "embedding.weight",
    "norm.scale",
    "unembedding.weight",
    "block.",
    "attn.norm.scale",
    {"attn.qkv"},
    "attn.sinks",
    "attn.out",
    "mlp.norm.scale",
    "mlp.gate",
    "mlp.mlp1_weight.blocks",
    "mlp.mlp1_weight.scales",
    "mlp.mlp1_bias",
    "mlp.mlp2_weight.blocks",
    "mlp.mlp2_weight.scales",
    "mlp.mlp2_bias",
};

void expect_layer(std::vector<Expected>& out, const ModelConfig& c, const Names& names,
                  const std::string& prefix, LayerTensors& layer) {
    const int64_t hidden = c.hidden_size, inner = c.intermediate_size, experts = c.experts;
    const auto add = [&](const std::string& name, Kind kind, Shape shape, TensorSpec& slot) {
        out.push_back({prefix + name, kind, std::move(shape), &slot});
    };
    add(names.attention_norm, Kind::kVector, {hidden}, layer.attention_norm);
    const std::vector<int64_t> rows =
        names.qkv.size() == 1
            ? Shape{c.qkv_rows()}
            : Shape{c.query_rows(), c.kv_heads * c.head_dim, c.kv_heads * c.head_dim};
    layer.qkv.resize(rows.size());
    layer.qkv_bias.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
        const std::string name = names.qkv[i];
        add(name + ".weight", Kind::kMatrix, {rows[i], hidden}, layer.qkv[i]);
        add(name + ".bias", Kind::kVector, {rows[i]}, layer.qkv_bias[i]);
    }
    add(names.sinks, Kind::kVector, {c.heads}, layer.sinks);
    const std::string attn_out = names.attn_out, router = names.router;
    add(attn_out + ".weight", Kind::kMatrix, {hidden, c.query_rows()}, layer.attn_out);
    add(attn_out + ".bias", Kind::kVector, {hidden}, layer.attn_out_bias);
    add(names.moe_norm, Kind::kVector, {hidden}, layer.moe_norm);
    add(router + ".weight", Kind::kMatrix, {experts, hidden}, layer.router);
    add(router + ".bias", Kind::kVector, {experts}, layer.router_bias);
    add(names.up_blocks, Kind::kBytes, {experts, 2 * inner, hidden / 32, 16}, layer.moe_up.blocks);
    add(names.up_scales, Kind::kBytes, {experts, 2 * inner, hidden / 32}, layer.moe_up.scales);
    add(names.up_bias, Kind::kVector, {experts, 2 * inner}, layer.moe_up.bias);
    add(names.down_blocks, Kind::kBytes, {experts, hidden, inner / 32, 16}, layer.moe_down.blocks);
    add(names.down_scales, Kind::kBytes, {experts, hidden, inner / 32}, layer.moe_down.scales);
    add(names.down_bias, Kind::kVector, {experts, hidden}, layer.moe_down.bias);
}

std::vector<Expected> expect_model(const ModelConfig& c, const Names& names, ModelTensors& model) {
    std::vector<Expected> out;
    const Shape table = {c.vocab_size, c.hidden_size};
    out.push_back({names.embedding, Kind::kMatrix, table, &model.embedding});
    out.push_back({names.final_norm, Kind::kVector, {c.hidden_size}, &model.final_norm});
    out.push_back({names.unembedding, Kind::kMatrix, table, &model.unembedding});
    model.layers.resize(c.layers);
    for (int n = 0; n < c.layers; ++n)
        expect_layer(out, c, names, names.layer_prefix + std::to_string(n) + ".", model.layers[n]);
    return out;
}

std::string text(const Shape& shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

const char* wanted_dtype(Kind kind) {
    switch (kind) {
        case Kind::kMatrix: return "BF16";
        case Kind::kVector: return "BF16 or F32";
        default: return "U8";
    }
}

bool dtype_fits(Kind kind, DType dtype) {
    switch (kind) {
        case Kind::kMatrix: return dtype == DType::kBf16;
        case Kind::kVector: return dtype == DType::kBf16 || dtype == DType::kF32;
        default: return dtype == DType::kU8;
    }
}

void check(const Expected& wanted, const TensorSpec& given, const TensorSource& source) {
    const auto refuse = [&](const std::string& what) {
        throw CheckpointError(
            message(source.file_name(given), ": tensor ", given.name, ": ", what));
    };
    if (!dtype_fits(wanted.kind, given.dtype))
        refuse(
            message("dtype is ", dtype_name(given.dtype), ", wanted ", wanted_dtype(wanted.kind)));
    if (given.shape != wanted.shape)
        refuse(message("shape is ", text(given.shape), ", config.json wants ", text(wanted.shape)));
}

}  // namespace

uint64_t ModelTensors::bytes() const {
    uint64_t total = embedding.bytes() + final_norm.bytes() + unembedding.bytes();
    for (const LayerTensors& layer : layers) {
        for (const TensorSpec& t : layer.qkv) total += t.bytes();
        for (const TensorSpec& t : layer.qkv_bias) total += t.bytes();
        for (const TensorSpec* t :
             {&layer.attention_norm, &layer.sinks, &layer.attn_out, &layer.attn_out_bias,
              &layer.moe_norm, &layer.router, &layer.router_bias, &layer.moe_up.blocks,
              &layer.moe_up.scales, &layer.moe_up.bias, &layer.moe_down.blocks,
              &layer.moe_down.scales, &layer.moe_down.bias})
            total += t->bytes();
    }
    return total;
}

ModelTensors find_tensors(const ModelConfig& config, std::span<const TensorSpec> published,
                          const TensorSource& source) {
    std::map<std::string_view, const TensorSpec*> by_name;
    int openai_names = 0, hugging_face_names = 0;
    for (const TensorSpec& t : published) {
        by_name[t.name] = &t;
        openai_names += t.name.starts_with(kOpenAi.layer_prefix);
        hugging_face_names += t.name.starts_with(kHuggingFace.layer_prefix);
    }
    const Names& names = openai_names > hugging_face_names ? kOpenAi : kHuggingFace;
    ModelTensors model;
    std::set<std::string_view> used;
    for (const Expected& wanted : expect_model(config, names, model)) {
        const auto found = by_name.find(wanted.name);
        if (found == by_name.end())
            throw CheckpointError(message(source.folder(), ": tensor ", wanted.name,
                                          " is missing; wanted ", wanted_dtype(wanted.kind), " ",
                                          text(wanted.shape)));
        check(wanted, *found->second, source);
        *wanted.slot = *found->second;
        used.insert(found->first);
    }
    for (const TensorSpec& t : published)
        if (!used.count(t.name))
            throw CheckpointError(message(source.file_name(t), ": tensor ", t.name,
                                          " has no place in a gpt-oss model of ", config.layers,
                                          " layers"));
    return model;
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
    ModelTensors model;
    std::vector<TensorSpec> out;
    for (const Expected& wanted : expect_model(config, kHuggingFace, model)) {
        TensorSpec t;
        t.name = wanted.name;
        t.dtype = wanted.kind == Kind::kBytes ? DType::kU8 : DType::kBf16;
        t.shape = wanted.shape;
        out.push_back(std::move(t));
    }
    return out;
}

}  // namespace gptoss

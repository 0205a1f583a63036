#include "model/model.h"

#include <algorithm>

#include "model/rope.h"

namespace gptoss {
namespace {

StepBuffers carve(const ModelConfig& c, Carver& carver) {
    const size_t rows = kStepRows, pairs = rows * c.experts_per_token;
    StepBuffers b;
    b.x = carver.take<float>(rows * c.hidden_size);
    b.q = carver.take<float>(rows * c.query_rows());
    b.attention = carver.take<float>(rows * c.query_rows());
    b.h = carver.take<float>(rows * c.hidden_size);
    b.act = carver.take<float>(pairs * c.intermediate_size);
    b.weight = carver.take<float>(pairs);
    b.expert = carver.take<int>(pairs);
    return b;
}

}  // namespace

size_t step_buffer_bytes(const ModelConfig& config) {
    Carver count;
    carve(config, count);
    return count.used();
}

Model::Model(const ModelConfig& config, std::unique_ptr<Backend> backend,
             std::unique_ptr<PlacedModel> weights)
    : config_(config),
      backend_(std::move(backend)),
      weights_(std::move(weights)),
      kv_(config, backend_->precision(), kStepRows),
      inv_freq_(rope_frequencies(config)),
      concentration_(rope_concentration(config)),
      eps_(static_cast<float>(config.rms_norm_eps)),
      backend_scratch_bytes_(backend_->prepare(config, kStepRows)),
      memory_(step_buffer_bytes(config), "the buffers of a step") {
    Carver carver(memory_.data(), memory_.size());
    buffers_ = carve(config, carver);
}

void Model::forward(std::span<const Row> rows, const Interrupt& interrupt) {
    const int tokens = static_cast<int>(rows.size());
    const StepBuffers& b = buffers_;
    embed(rows, b.x);
    for (int layer = 0; layer < config_.layers; ++layer) {
        if (interrupt) interrupt();
        qkv(layer, rows, b.x, b.q);
        attention(layer, rows, b.q, b.attention);
        attn_out(layer, tokens, b.attention, b.x);
        router(layer, tokens, b.x, b.h, b.expert, b.weight);
        moe_up(layer, tokens, b.h, b.expert, b.act);
        moe_down(layer, tokens, b.act, b.expert, b.weight, b.x);
    }
}

void Model::embed(std::span<const Row> rows, float* x) {
    backend_->embed(
        {rows.data(), weights_->embedding, x, static_cast<int>(rows.size()), config_.hidden_size});
}

void Model::qkv(int layer, std::span<const Row> rows, const float* x, float* q) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->qkv({rows.data(), x, w.attention_norm, w.qkv, w.qkv_bias, inv_freq_.data(),
                   concentration_, eps_, kv_.layers[layer], q, static_cast<int>(rows.size()),
                   config_.hidden_size, config_.heads, config_.kv_heads, config_.head_dim});
}

void Model::attention(int layer, std::span<const Row> rows, const float* q, float* out) {
    backend_->attention({rows.data(), q, weights_->layers[layer].sinks, kv_.layers[layer], out,
                         static_cast<int>(rows.size()), config_.heads, config_.kv_heads,
                         config_.head_dim});
}

void Model::attn_out(int layer, int tokens, const float* attention, float* x) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->attn_out({attention, w.attn_out, w.attn_out_bias, x, tokens, config_.hidden_size,
                        config_.query_rows()});
}

void Model::router(int layer, int tokens, const float* x, void* h, int* expert, float* weight) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->router({x, w.moe_norm, w.router, w.router_bias, eps_, h, expert, weight, tokens,
                      config_.hidden_size, config_.experts, config_.experts_per_token});
}

void Model::moe_up(int layer, int tokens, const void* h, const int* expert, void* act) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->moe_up({h, expert, w.moe_up, w.moe_up_bias, static_cast<float>(config_.swiglu_limit),
                      act, tokens, config_.hidden_size, config_.intermediate_size, config_.experts,
                      config_.experts_per_token});
}

void Model::moe_down(int layer, int tokens, const void* act, const int* expert, const float* weight,
                     float* x) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->moe_down({act, expert, weight, w.moe_down, w.moe_down_bias, x, tokens,
                        config_.hidden_size, config_.intermediate_size, config_.experts,
                        config_.experts_per_token});
}

void Model::logits(const float* x, std::span<const int> which, float* out) {
    backend_->logits({x, which.data(), weights_->final_norm, weights_->unembedding, eps_, out,
                      static_cast<int>(which.size()), config_.hidden_size, config_.vocab_size});
}

size_t decode_bytes(const ModelConfig& c, const PlacedModel& weights, const KvGeometry& kv,
                    int position) {
    const auto one = [](const Matrix& m) { return m.data_stride + m.scale_stride; };
    size_t total = one(weights.unembedding);
    for (const PlacedLayer& w : weights.layers)
        total += one(w.qkv) + one(w.attn_out) + one(w.router) +
                 c.experts_per_token * (one(w.moe_up) + one(w.moe_down));
    for (const KvLayer& layer : kv.layers) {
        const int seen = layer.window ? std::min(position + 1, layer.window) : position + 1;
        total += size_t{2} * seen * c.kv_heads * c.head_dim * dtype_bytes(layer.type);
    }
    return total;
}

}  // namespace gptoss

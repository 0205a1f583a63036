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
      backend_scratch_bytes_(backend_->prepare(config, kStepRows)),
      memory_(step_buffer_bytes(config), "the buffers of a step") {
    Carver carver(memory_.data(), memory_.size());
    buffers_ = carve(config, carver);
}

void Model::forward(std::span<const Row> rows) {
    const ModelConfig& c = config_;
    const int tokens = static_cast<int>(rows.size());
    const auto eps = static_cast<float>(c.rms_norm_eps);
    const StepBuffers& b = buffers_;
    backend_->embed({rows.data(), weights_->embedding, b.x, tokens, c.hidden_size});
    for (int n = 0; n < c.layers; ++n) {
        const PlacedLayer& w = weights_->layers[n];
        backend_->qkv({rows.data(), b.x, w.attention_norm, w.qkv, w.qkv_bias, inv_freq_.data(),
                       concentration_, eps, kv_.layers[n], b.q, tokens, c.hidden_size, c.heads,
                       c.kv_heads, c.head_dim});
        backend_->attention({rows.data(), b.q, w.sinks, kv_.layers[n], b.attention, tokens,
                             c.heads, c.kv_heads, c.head_dim});
        backend_->attn_out({b.attention, w.attn_out, w.attn_out_bias, b.x, tokens, c.hidden_size,
                            c.query_rows()});
        backend_->router({b.x, w.moe_norm, w.router, w.router_bias, eps, b.h, b.expert, b.weight,
                          tokens, c.hidden_size, c.experts, c.experts_per_token});
        backend_->moe_up({b.h, b.expert, w.moe_up, w.moe_up_bias,
                          static_cast<float>(c.swiglu_limit), b.act, tokens, c.hidden_size,
                          c.intermediate_size, c.experts, c.experts_per_token});
        backend_->moe_down({b.act, b.expert, b.weight, w.moe_down, w.moe_down_bias, b.x, tokens,
                            c.hidden_size, c.intermediate_size, c.experts, c.experts_per_token});
    }
}

void Model::logits(std::span<const int> which, float* out) {
    backend_->logits({buffers_.x, which.data(), weights_->final_norm, weights_->unembedding,
                      static_cast<float>(config_.rms_norm_eps), out,
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

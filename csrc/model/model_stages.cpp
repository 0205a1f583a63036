// The stages one by one with a model's own weights and sizes, and the bytes that they read.
#include <algorithm>

#include "model/model.h"

namespace gptoss {

void Model::embed(const Row* rows, int tokens, float* x) {
    backend_->embed({rows, weights_->embedding, buffers_.chosen, x, tokens, config_.hidden_size});
}

void Model::qkv(int layer, const Row* rows, int tokens, Form form, const float* x, float* q) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->qkv({rows, x, w.attention_norm, w.qkv, w.qkv_bias, buffers_.inv_freq, concentration_,
                   eps_, kv_.layers[layer], q, form, tokens, config_.hidden_size, config_.heads,
                   config_.kv_heads, config_.head_dim});
}

void Model::attention(int layer, const Row* rows, int tokens, Form form, const float* q,
                      float* out) {
    backend_->attention({rows, q, weights_->layers[layer].sinks, kv_.layers[layer], out, form,
                         tokens, config_.heads, config_.kv_heads, config_.head_dim});
}

void Model::attn_out(int layer, int tokens, Form form, const float* attention, float* x) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->attn_out({attention, w.attn_out, w.attn_out_bias, x, form, tokens,
                        config_.hidden_size, config_.query_rows()});
}

void Model::router(int layer, int tokens, Form form, const float* x, void* h, int* expert,
                   float* weight) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->router({x, w.moe_norm, w.router, w.router_bias, eps_, h, expert, weight, form, tokens,
                      config_.hidden_size, config_.experts, config_.experts_per_token});
}

void Model::moe_up(int layer, int tokens, Form form, const void* h, const int* expert, void* act) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->moe_up({h, expert, w.moe_up, w.moe_up_bias, static_cast<float>(config_.swiglu_limit),
                      act, form, tokens, config_.hidden_size, config_.intermediate_size,
                      config_.experts, config_.experts_per_token});
}

void Model::moe_down(int layer, int tokens, Form form, const void* act, const int* expert,
                     const float* weight, float* x, bool after_up) {
    const PlacedLayer& w = weights_->layers[layer];
    backend_->moe_down({act, expert, weight, w.moe_down, w.moe_down_bias, x, form, tokens,
                        config_.hidden_size, config_.intermediate_size, config_.experts,
                        config_.experts_per_token, after_up});
}

void Model::logits(const float* x, const int* which, int outputs, float* out) {
    backend_->logits({x, which, weights_->final_norm, weights_->unembedding, eps_, out, outputs,
                      config_.hidden_size, config_.vocab_size});
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

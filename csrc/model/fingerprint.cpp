#include "model/fingerprint.h"

#include <algorithm>
#include <vector>

#include "base/hash.h"

namespace gptoss {
namespace {

constexpr size_t kMatrixBytes = 4096;

class Printer {
  public:
    explicit Printer(Backend& backend) : backend_(backend) {}

    Hash hash;

    void floats(const float* data, size_t count) { bytes(data, count * sizeof(float)); }

    void matrix(const Matrix& m) {
        const size_t values = size_t(m.rows) * m.columns;
        const size_t stored = m.format == WeightFormat::kBf16   ? 2 * values
                              : m.format == WeightFormat::kInt8 ? values
                                                                : values / 2;
        hash.add_value(m.format);
        bytes(m.data, std::min(stored, kMatrixBytes));
    }

    void bytes(const void* data, size_t count) {
        buffer_.resize(count);
        backend_.read(buffer_.data(), data, count);
        hash.add(buffer_.data(), count);
    }

  private:
    Backend& backend_;
    std::vector<std::byte> buffer_;
};

}  // namespace

uint64_t fingerprint(Backend& backend, const ModelConfig& c, const PlacedModel& weights) {
    Printer p(backend);
    for (int value : {c.vocab_size, c.hidden_size, c.intermediate_size, c.layers, c.experts,
                      c.experts_per_token, c.heads, c.kv_heads, c.head_dim, c.sliding_window,
                      c.max_context, c.initial_context, int{c.rope_truncate}})
        p.hash.add_value(value);
    for (double value : {c.rope_theta, c.rope_factor, c.rope_beta_fast, c.rope_beta_slow,
                         c.rms_norm_eps, c.swiglu_limit})
        p.hash.add_value(value);
    p.hash.add(c.windowed.data(), c.windowed.size());
    p.hash.add_value(backend.precision());
    p.hash.add_value(backend.traits().key_tile);
    p.bytes(weights.embedding,
            std::min(size_t(c.vocab_size) * c.hidden_size * sizeof(bf16), kMatrixBytes));
    p.floats(weights.final_norm, c.hidden_size);
    p.matrix(weights.unembedding);
    for (const PlacedLayer& layer : weights.layers) {
        p.floats(layer.attention_norm, c.hidden_size);
        p.matrix(layer.qkv);
        p.floats(layer.qkv_bias, c.qkv_rows());
        p.floats(layer.sinks, c.heads);
        p.matrix(layer.attn_out);
        p.floats(layer.attn_out_bias, c.hidden_size);
        p.floats(layer.moe_norm, c.hidden_size);
        p.matrix(layer.router);
        p.floats(layer.router_bias, c.experts);
        p.matrix(layer.moe_up);
        p.floats(layer.moe_up_bias, size_t(c.experts) * 2 * c.intermediate_size);
        p.matrix(layer.moe_down);
        p.floats(layer.moe_down_bias, size_t(c.experts) * c.hidden_size);
    }
    return p.hash.value();
}

uint64_t with_kv(uint64_t fingerprint, DType kv) {
    if (kv != DType::kFp8) return fingerprint;
    Hash hash;
    hash.add_value(fingerprint);
    hash.add_value(kv);
    return hash.value();
}

}  // namespace gptoss

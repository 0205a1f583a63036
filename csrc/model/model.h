// The network: the order of the stages, and the buffers between them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/kv_geometry.h"

namespace gptoss {

// Rows of a step: more make prefill faster and rings longer.
constexpr int kStepRows = 256;

// What the stages hand to each other.
struct StepBuffers {
    float* x;          // [kStepRows, hidden]   residual
    float* q;          // [kStepRows, heads, head_dim]
    float* attention;  // [kStepRows, heads, head_dim]
    float* h;          // [kStepRows, hidden]   in the backend's form
    float* act;        // [kStepRows, top_k, inner]   in the backend's form
    float* weight;     // [kStepRows, top_k]
    int* expert;       // [kStepRows, top_k]
};

// Called now and then from the thread that computes; what it throws ends the work there.
using Interrupt = std::function<void()>;

class Model {
  public:
    Model(const ModelConfig& config, std::unique_ptr<Backend> backend,
          std::unique_ptr<PlacedModel> weights);

    const ModelConfig& config() const { return config_; }
    const KvGeometry& kv() const { return kv_; }
    const PlacedModel& weights() const { return *weights_; }
    Backend& backend() { return *backend_; }

    // Runs all layers over at most kStepRows rows, writing their keys and values. What interrupt
    // throws between two layers ends it; the same rows may be run again.
    void forward(std::span<const Row> rows, const Interrupt& interrupt);
    // After forward: logits [which.size(), vocab] of the rows named.
    void logits(std::span<const int> which, float* out) { logits(buffers_.x, which, out); }

    // The stages one by one, with this model's weights; stages.h gives the shapes. Up to kStepRows
    // rows.
    void embed(std::span<const Row> rows, float* x);
    void qkv(int layer, std::span<const Row> rows, const float* x, float* q);
    void attention(int layer, std::span<const Row> rows, const float* q, float* out);
    void attn_out(int layer, int tokens, const float* attention, float* x);
    void router(int layer, int tokens, const float* x, void* h, int* expert, float* weight);
    void moe_up(int layer, int tokens, const void* h, const int* expert, void* act);
    void moe_down(int layer, int tokens, const void* act, const int* expert, const float* weight,
                  float* x);
    void logits(const float* x, std::span<const int> which, float* out);

    size_t scratch_bytes() const { return memory_.size() + backend_scratch_bytes_; }

  private:
    ModelConfig config_;
    std::unique_ptr<Backend> backend_;
    std::unique_ptr<PlacedModel> weights_;
    KvGeometry kv_;
    std::vector<float> inv_freq_;
    float concentration_;
    float eps_;
    size_t backend_scratch_bytes_;
    Memory memory_;
    StepBuffers buffers_;
};

// Bytes that decoding one token reads at a position: weights of the chosen experts, everything
// dense, and the cache.
size_t decode_bytes(const ModelConfig& config, const PlacedModel& weights, const KvGeometry& kv,
                    int position);

// Bytes of the buffers between the stages, for a model of this shape.
size_t step_buffer_bytes(const ModelConfig& config);

}  // namespace gptoss

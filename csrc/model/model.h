// The network: the order of the stages, and the buffers between them.
#pragma once

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

class Model {
  public:
    Model(const ModelConfig& config, std::unique_ptr<Backend> backend,
          std::unique_ptr<PlacedModel> weights);

    const ModelConfig& config() const { return config_; }
    const KvGeometry& kv() const { return kv_; }
    const PlacedModel& weights() const { return *weights_; }
    Backend& backend() { return *backend_; }

    // Runs all layers over at most kStepRows rows, writing their keys and values.
    void forward(std::span<const Row> rows);
    // After forward: logits [which.size(), vocab] of the rows named.
    void logits(std::span<const int> which, float* out);

    size_t scratch_bytes() const { return memory_.size() + backend_scratch_bytes_; }

  private:
    ModelConfig config_;
    std::unique_ptr<Backend> backend_;
    std::unique_ptr<PlacedModel> weights_;
    KvGeometry kv_;
    std::vector<float> inv_freq_;
    float concentration_;
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

// What computes: weights placed for one device, and the nine stages over them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/stages.h"
#include "base/memory.h"
#include "weights/layout.h"

namespace gptoss {

struct PlacedLayer {
    const float* attention_norm;  // [hidden]
    Matrix qkv;
    const float* qkv_bias;
    const float* sinks;  // [heads]
    Matrix attn_out;
    const float* attn_out_bias;
    const float* moe_norm;
    Matrix router;
    const float* router_bias;
    Matrix moe_up;
    const float* moe_up_bias;  // [experts, 2 inner]
    Matrix moe_down;
    const float* moe_down_bias;  // [experts, hidden]
};

// A model's weights in a backend's memory; an outline of it has sizes and null pointers.
struct PlacedModel {
    Memory memory;
    size_t bytes = 0;
    const bf16* embedding = nullptr;    // [vocab, hidden]
    const float* final_norm = nullptr;  // [hidden]
    Matrix unembedding;
    std::vector<PlacedLayer> layers;
    // What requantising dense weights lost: name, and root of (squared error / squared weight).
    std::vector<std::pair<std::string, double>> dense_errors;
};

// Called now and then from the thread that loads, with bytes of the published tensors; what it
// throws ends the loading.
using Progress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

class Backend {
  public:
    virtual ~Backend() = default;

    virtual std::unique_ptr<PlacedModel> place(const ModelConfig& config,
                                               const ModelTensors& tensors,
                                               const TensorSource& source, WeightFormat dense,
                                               const Progress& progress) = 0;
    // What place() will make, without memory or weights.
    virtual PlacedModel outline(const ModelConfig& config, WeightFormat dense) const = 0;
    // Makes room for steps of up to max_rows rows; bytes of it.
    virtual size_t prepare(const ModelConfig& config, int max_rows) = 0;

    // For tests: rows of activations in the backend's own form as float32 [rows, columns].
    virtual void read_activations(const void* own, int rows, int columns, float* out) const = 0;
    // Bytes a second that the device reads from this range of its memory, without arithmetic.
    virtual double read_rate(const std::byte* data, size_t bytes) = 0;
    virtual Precision precision() const = 0;
    // Pairs of names and values for people: threads, instruction set, the kernel of each stage.
    virtual std::vector<std::pair<std::string, std::string>> describe() const = 0;
    virtual void embed(const EmbedArgs& args) = 0;
    virtual void qkv(const QkvArgs& args) = 0;
    virtual void attention(const AttentionArgs& args) = 0;
    virtual void attn_out(const AttnOutArgs& args) = 0;
    virtual void router(const RouterArgs& args) = 0;
    virtual void moe_up(const MoeUpArgs& args) = 0;
    virtual void moe_down(const MoeDownArgs& args) = 0;
    virtual void logits(const LogitsArgs& args) = 0;
    virtual void sample(const SampleArgs& args) = 0;
};

}  // namespace gptoss

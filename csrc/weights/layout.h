// Which published tensor plays which part, in both published forms.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "weights/config.h"
#include "weights/tensor_source.h"

namespace gptoss {

// A matrix published as one tensor or as several stacked by rows (q, k and v).
using RowStack = std::vector<TensorSpec>;

struct ExpertTensors {
    TensorSpec blocks;  // [experts, rows, columns / 32, 16] U8, low nibble first
    TensorSpec scales;  // [experts, rows, columns / 32] U8, value * 2**(scale - 127)
    TensorSpec bias;    // [experts, rows]
};

struct LayerTensors {
    TensorSpec attention_norm;  // [hidden]
    RowStack qkv;               // [(heads + 2 kv_heads) * head_dim, hidden]
    RowStack qkv_bias;          // [(heads + 2 kv_heads) * head_dim]
    TensorSpec sinks;           // [heads]
    TensorSpec attn_out;        // [hidden, heads * head_dim]
    TensorSpec attn_out_bias;   // [hidden]
    TensorSpec moe_norm;        // [hidden]
    TensorSpec router;          // [experts, hidden]
    TensorSpec router_bias;     // [experts]
    ExpertTensors moe_up;       // rows 2 * intermediate, gate and up interleaved; columns hidden
    ExpertTensors moe_down;     // rows hidden; columns intermediate
};

struct ModelTensors {
    TensorSpec embedding;    // [vocab, hidden]
    TensorSpec final_norm;   // [hidden]
    TensorSpec unembedding;  // [vocab, hidden]
    std::vector<LayerTensors> layers;

    uint64_t bytes() const;
};

// What a model is made of, and where its bytes come from.
struct Published {
    std::unique_ptr<const TensorSource> source;
    ModelTensors tensors;
};

// Finds every tensor of the model among `published` and checks shape and dtype. Throws
// CheckpointError for the first that is missing, extra, misshapen or of another type; `source`
// names the files in its messages.
ModelTensors find_tensors(const ModelConfig& config, std::span<const TensorSpec> published,
                          const TensorSource& source);

// The tensors that a checkpoint of this shape in Hugging Face form holds, all in file 0.
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);

}  // namespace gptoss

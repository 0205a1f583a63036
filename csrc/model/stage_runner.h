// One stage at a time over a model's own weights, for tests. Outputs and
// unwritten cache start as NaN, so that what a stage fails to write, or should not read, shows.
#pragma once

#include <string>
#include <vector>

#include "model/model.h"

namespace gptoss {

struct SequencePosition {
    int sequence, position;
};

class StageRunner {
  public:
    using Floats = std::vector<float>;
    using Positions = std::vector<SequencePosition>;
    // What a layer's expert stages gave: expert and weight [tokens, top_k], act [tokens, top_k,
    // inner], h and x [tokens, hidden].
    struct Experts {
        std::vector<int> expert;
        Floats weight, h, act, x;
    };

    // Sequences of up to max_context positions each, with caches of their own. Throws
    // InvalidArgument, here and below, for what the model or the caches cannot hold.
    StageRunner(Model& model, int sequences, int max_context);

    // x [tokens, hidden] of token ids.
    Floats embed(const std::vector<int>& ids);
    // q [tokens, heads, head_dim] of x; keys and values go to the caches.
    Floats qkv(int layer, const Floats& x, const Positions& at);
    // What a cache holds: key, then value, each [kv_heads, head_dim].
    Floats cached(int layer, SequencePosition at) const;
    // Overwrites a cache entry; the shape is that of cached().
    void set_cached(int layer, SequencePosition at, const Floats& key_value);
    // [tokens, heads, head_dim] of q of that shape.
    Floats attention(int layer, const Floats& q, const Positions& at);
    // x [tokens, hidden] of attention [tokens, heads, head_dim] and the residual before.
    Floats attn_out(int layer, const Floats& attention, const Floats& x);
    // router, moe_up and moe_down in turn over the residual x [tokens, hidden].
    Experts experts(int layer, const Floats& x);
    // [which.size(), vocab] of the rows named of x [tokens, hidden].
    Floats logits(const Floats& x, const std::vector<int>& which);

  private:
    std::vector<Row> rows(const Positions& at, size_t tokens) const;
    void check(int layer, const Floats& values, size_t width, const char* name) const;

    Model& model_;
    const int max_context_;
    std::vector<Memory> memory_;                  // [sequences]
    std::vector<std::vector<std::byte*>> pages_;  // [sequences][pages]
    std::vector<KvView> views_;                   // [sequences]
};

}  // namespace gptoss

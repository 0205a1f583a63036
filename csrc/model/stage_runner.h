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

    // How all rows of a sample stage choose; row i is at position i.
    struct Sampling {
        SamplingParameters parameters;
        std::vector<TokenBias> bias;
        std::vector<TokenCount> seen;
        std::vector<uint32_t> masks;  // [outputs, mask_words(vocab)], or none
        int top_logprobs;
    };
    struct Choices {
        std::vector<TopLogprob> chosen;  // [outputs]
        std::vector<TopLogprob> top;     // [outputs, top_logprobs]
    };

    // Sequences of up to max_context positions each, with caches of their own; all stages in one
    // form. Throws InvalidArgument, here and below, for what the model or the caches cannot hold.
    StageRunner(Model& model, int sequences, int max_context, Form form);

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
    // A choice for each row of logits [outputs, vocab].
    Choices sample(const Floats& logits, const Sampling& sampling);

  private:
    // A sequence's cache: where its parts lie, and the view of it in the backend's memory.
    struct Sequence {
        StageMemory cache;
        StageMemory table;  // KvView, then pages
        std::vector<std::byte*> pages;
        KvView view;  // with pages here
    };
    // One tile of keys or values of one head, copied to the host.
    struct Tile {
        std::byte* at;  // in the backend's memory
        std::vector<std::byte> bytes;
        int lane;
    };

    void open(Sequence& sequence);
    std::vector<Row> rows(const Positions& at, size_t tokens) const;
    Tile read_tile(int layer, SequencePosition at, int head, bool value) const;
    std::byte* element(Tile& tile, const KvLayer& kv, int d, bool value) const;
    void check(int layer, const Floats& values, size_t width, const char* name) const;
    StageMemory copy(const void* data, size_t bytes) const;
    template <class T>
    StageMemory upload(const std::vector<T>& values) const;
    template <class T>
    void download(const StageMemory& memory, std::vector<T>& values) const;

    Model& model_;
    const int max_context_;
    const Form form_;
    std::vector<Sequence> sequences_;
};

}  // namespace gptoss

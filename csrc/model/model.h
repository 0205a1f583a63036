// The network: the order of the stages, and the buffers between them.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/kv_geometry.h"
#include "model/token_mask.h"

namespace gptoss {

// What the stages hand to each other, in the backend's memory; rows are those of a prefill step.
struct StepBuffers {
    Row* rows;           // [rows]
    int* which;          // [rows]   rows whose logits are wanted
    float* x;            // [rows, hidden]   residual
    float* q;            // [rows, heads, head_dim]
    float* attention;    // [rows, heads, head_dim]
    std::byte* h;        // [rows, hidden]   in the backend's form
    std::byte* act;      // [rows, top_k, inner]   in the backend's form
    float* weight;       // [rows, top_k]
    int* expert;         // [rows, top_k]
    float* inv_freq;     // [head_dim / 2]
    float* logits;       // [outputs, vocab]
    SampleRow* sample;   // [outputs]
    uint32_t* masks;     // [outputs, mask_words(vocab)]
    TopLogprob* chosen;  // [outputs]
    TopLogprob* top;     // [outputs, kMostTopLogprobs]
};

// Called now and then from the thread that computes; what it throws ends the work there.
using Interrupt = std::function<void()>;

// What one row's choice needs, in the host's memory.
struct SampleRequest {
    SamplingParameters parameters;
    std::span<const TokenBias> bias;
    std::span<const TokenCount> seen;  // distinct tokens
    uint64_t position;                 // of the token to be chosen
    int top_logprobs;
    const FillMask* fill_mask = nullptr;  // null: none is asked for
    // Where that is null: the mask, null: any token may be chosen. copy_mask() takes it.
    std::shared_ptr<const FixedMask> fixed_mask = nullptr;
};

struct Choice {
    TopLogprob chosen;
    std::vector<TopLogprob> top_logprobs;  // most likely first
    std::exception_ptr failure;            // of this row's mask; then the rest says nothing
};

// Host memory in, host memory out; what lies between is the backend's. Rows' views are in the
// backend's memory.
class Model {
  public:
    // kv: of keys and values. deterministic: a prompt's tokens get the bits of the decode form.
    Model(const ModelConfig& config, std::unique_ptr<Backend> backend,
          std::unique_ptr<PlacedModel> weights, DType kv, bool deterministic);

    const ModelConfig& config() const { return config_; }
    const BackendTraits& traits() const { return traits_; }
    const KvGeometry& kv() const { return kv_; }
    const PlacedModel& weights() const { return *weights_; }
    Backend& backend() { return *backend_; }
    bool deterministic() const { return deterministic_; }
    // How a prompt's tokens are to be computed.
    Form prompt_form() const { return prompt_form_; }
    // Most rows of a step; a choose() takes as many as a decode step.
    int step_rows(Form form) const;

    // Runs all layers over at most step_rows(form) rows, writing their keys and values. What
    // interrupt throws between two layers ends it; the same rows may be run again.
    void forward(std::span<const Row> rows, Form form, const Interrupt& interrupt);
    // Of the rows named of the last forward(): logits [which.size(), vocab].
    void logits(std::span<const int> which, float* out);
    // Of the rows named of the last forward(): a token each. Throws Error where the logits are not
    // finite. Masks are asked for one after the other while the device computes; what goes wrong
    // with one is its row's `failure` alone.
    std::vector<Choice> choose(std::span<const int> which, std::span<const SampleRequest> requests);
    // forward(), then choose() of all rows, of generated tokens. Where more tokens of the same
    // sequences are likely to be asked for next, with room for them in the caches, `more` lets the
    // next step begin before this one's tokens are known here.
    std::vector<Choice> decode(std::span<const Row> rows, std::span<const SampleRequest> requests,
                               bool more, const Interrupt& interrupt);

    // What tells this model from others (fingerprint.h); or what would, with keys and values of
    // another type.
    uint64_t fingerprint() { return fingerprint(kv_.type); }
    uint64_t fingerprint(DType kv);
    // forward() does, for the parts that it comes to.
    void wait_for_weights(const Interrupt& interrupt) const;
    // To be called before a cache changes in another way than by forward() and decode().
    void forget_next() { next_rows_.clear(); }

    // The stages one by one, with this model's weights, over the backend's memory; stages.h gives
    // the shapes.
    void embed(const Row* rows, int tokens, float* x);
    void qkv(int layer, const Row* rows, int tokens, Form form, const float* x, float* q);
    void attention(int layer, const Row* rows, int tokens, Form form, const float* q, float* out);
    void attn_out(int layer, int tokens, Form form, const float* attention, float* x);
    void router(int layer, int tokens, Form form, const float* x, void* h, int* expert,
                float* weight);
    void moe_up(int layer, int tokens, Form form, const void* h, const int* expert, void* act);
    void moe_down(int layer, int tokens, Form form, const void* act, const int* expert,
                  const float* weight, float* x, bool after_up = false);
    void logits(const float* x, const int* which, int outputs, float* out);

    size_t scratch_bytes() const { return memory_.size() + backend_->scratch_bytes(config_); }

  private:
    // [outputs]   null where there was none; empty where no row has a mask.
    using MaskFailures = std::vector<std::exception_ptr>;

    void wait_for_part(int part, const Interrupt& interrupt) const;
    void layers(int tokens, Form form, const Interrupt& interrupt);
    void write_rows(std::span<const Row> rows);
    void write_requests(std::span<const SampleRequest> requests);
    void write_fixed_mask(size_t output, const SampleRequest& request);
    MaskFailures write_masks(std::span<const SampleRequest> requests);
    void sample(int outputs);
    std::vector<Choice> read_choices(std::span<const SampleRequest> requests,
                                     MaskFailures failures);
    MaskFailures begin_decode(std::span<const Row> rows, std::span<const SampleRequest> requests,
                              const Interrupt& interrupt);
    bool begun(std::span<const Row> rows, std::span<const SampleRequest> requests) const;
    void begin_next(std::span<const Row> rows, std::span<const SampleRequest> requests,
                    const Interrupt& interrupt);

    ModelConfig config_;
    std::unique_ptr<Backend> backend_;
    BackendTraits traits_;
    std::unique_ptr<PlacedModel> weights_;
    const bool deterministic_;
    std::optional<uint64_t> fingerprint_;
    const Form prompt_form_;
    KvGeometry kv_;
    float concentration_;
    float eps_;
    StageMemory memory_;
    StepBuffers buffers_;
    std::vector<StageMemory> lists_;  // [outputs]   bias and tokens seen, grown as needed
    std::vector<uint32_t> mask_;      // [mask_words(vocab)]   one row's, on its way
    // [outputs]   those that buffers_.masks holds; null: others
    std::vector<std::shared_ptr<const FixedMask>> fixed_masks_;

    // The decode step begun ahead, if there is one: as decode() will be asked for it. What else
    // changes a cache forgets it.
    std::vector<Row> next_rows_;
    std::vector<SampleRequest> next_requests_;
    int slot_ = 0;  // of the outcome of the step begun last
};

// Bytes that decoding one token reads at a position: weights of the chosen experts, everything
// dense, and the cache.
size_t decode_bytes(const ModelConfig& config, const PlacedModel& weights, const KvGeometry& kv,
                    int position);

// Places the weights, once it is sure that they and what steps need will fit. Throws OutOfMemory.
std::unique_ptr<PlacedModel> place_model(Backend& backend, const ModelConfig& config,
                                         std::shared_ptr<const Published> published,
                                         WeightFormat dense, const Loading& loading);

// Bytes of the buffers between the stages, for a model of this shape.
size_t step_buffer_bytes(const ModelConfig& config, const BackendTraits& traits);

}  // namespace gptoss

// The nine stages of a step, as plain structs of pointers and sizes.
//
// All matrices are row-major. A row of a step is one token of one sequence; rows of many sequences
// may stand in one step in any order, a sequence's own rows by rising position. Every pointer is to
// memory that the backend made or placed (Backend::allocate), unless said otherwise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace gptoss {

enum class WeightFormat : uint8_t { kBf16, kInt8, kMxfp4 };
enum class Precision : uint8_t { kExact, kFast };

// How a row is computed: a prompt's tokens in one form, generated ones in the other, however many
// rows there are. Within a form, a row's bits do not depend on the rows beside it.
enum class Form : uint8_t { kPrefill, kDecode };

// A weight matrix, or one for each expert, in its backend's own layout.
struct Matrix {
    const std::byte* data = nullptr;
    const std::byte* scales = nullptr;  // of blocks of 32 columns; null for bf16
    WeightFormat format = WeightFormat::kBf16;
    int rows = 0;
    int columns = 0;
    size_t data_stride = 0;   // bytes from one expert to the next
    size_t scale_stride = 0;  // bytes
};

// Where one sequence keeps its keys and values. A session owns the memory.
struct KvView {
    std::byte* const* pages;  // [ceil(context / page_tokens)] of the full layers
    std::byte* ring;          // of the windowed layers
};

// Where inside a page, or inside the ring, one layer's part lies, and how it is laid out:
// keys, then values, each [kv_heads][slots / key_tile] tiles of key_tile positions; a key tile is
// [head_dim][key_tile], so that the scores of a tile stand side by side, a value tile
// [key_tile][head_dim]. With tiles of one position both are [kv_heads][slots][head_dim].
struct KvLayer {
    size_t offset;  // bytes
    int slots;      // positions in a page, or in the whole ring
    int window;     // keys a query sees, its own included; 0: all of them (pages)
    int key_tile;
    DType type;  // of keys and values: float32, float16 or fp8
};

struct Row {
    int token;  // or -1 - i: what was chosen last for output i
    int position;
    const KvView* kv;
};

struct TopLogprob {
    int token;
    float logprob;  // natural logarithm, of the model's own distribution
};

// Look the tokens up.
struct EmbedArgs {
    const Row* rows;           // [tokens]
    const bf16* table;         // [vocab, hidden]
    const TopLogprob* chosen;  // [outputs] of the sample stage before
    float* x;                  // [tokens, hidden]   out: residual
    int tokens, hidden;
};

// Normalise, multiply, add the bias, rotate q and k, keep k and v.
struct QkvArgs {
    const Row* rows;        // [tokens]
    const float* x;         // [tokens, hidden]   residual
    const float* norm;      // [hidden]           gain
    Matrix weight;          // [(heads + 2 kv_heads) * head_dim, hidden]
    const float* bias;      // [(heads + 2 kv_heads) * head_dim]
    const float* inv_freq;  // [head_dim / 2]     radians a position
    float concentration;    // YaRN's factor on cosine and sine
    float eps;
    KvLayer kv;
    float* q;  // [tokens, heads, head_dim]   out
    Form form;
    int tokens, hidden, heads, kv_heads, head_dim;
};

// Softmax over the keys seen and the head's sink; the values' weighted sum.
struct AttentionArgs {
    const Row* rows;     // [tokens]
    const float* q;      // [tokens, heads, head_dim]
    const float* sinks;  // [heads]   a logit each
    KvLayer kv;
    float* out;  // [tokens, heads, head_dim]   out
    Form form;
    int tokens, heads, kv_heads, head_dim;
};

// Multiply, add the bias and the residual.
struct AttnOutArgs {
    const float* attention;  // [tokens, columns]
    Matrix weight;           // [hidden, columns = heads * head_dim]
    const float* bias;       // [hidden]
    float* x;                // [tokens, hidden]   in and out: residual
    Form form;
    int tokens, hidden, columns;
};

// Normalise, score the experts, keep the best.
struct RouterArgs {
    const float* x;     // [tokens, hidden]   residual
    const float* norm;  // [hidden]           gain
    Matrix gate;        // [experts, hidden]
    const float* bias;  // [experts]
    float eps;
    void* h;        // [tokens, hidden]   out: normalised x for moe_up, in the backend's own form
    int* expert;    // [tokens, top_k]    out: best first, ties to the lower id
    float* weight;  // [tokens, top_k]    out: each row sums to 1
    Form form;
    int tokens, hidden, experts, top_k;
};

// Each chosen expert's gate and up product, bias, clamped SwiGLU:
// min(g, limit) * sigmoid(1.702 min(g, limit)) * (clip(u, -limit, limit) + 1).
struct MoeUpArgs {
    const void* h;      // [tokens, hidden]   from router
    const int* expert;  // [tokens, top_k]
    Matrix weight;      // [experts] of [2 inner, hidden]
    const float* bias;  // [experts, 2 inner]   in the order that the backend placed it
    float limit;
    // [tokens, top_k, inner]   out, in the backend's own form; moe_down comes next, since the
    // backend may keep them elsewhere
    void* act;
    Form form;
    int tokens, hidden, inner, experts, top_k;
};

// Each chosen expert's down product and bias, their weighted sum, added to the residual.
struct MoeDownArgs {
    const void* act;      // [tokens, top_k, inner]   from moe_up
    const int* expert;    // [tokens, top_k]
    const float* weight;  // [tokens, top_k]
    Matrix matrix;        // [experts] of [hidden, inner]
    const float* bias;    // [experts, hidden]
    float* x;             // [tokens, hidden]   in and out: residual
    Form form;
    int tokens, hidden, inner, experts, top_k;
    bool after_up;  // the stage before was moe_up with the same `expert`
};

// Normalise and multiply the rows asked for. There is one form: a prompt's last row, too, is
// usually asked for alone.
struct LogitsArgs {
    const float* x;     // [tokens, hidden]   residual
    const int* row;     // [outputs]          which rows
    const float* norm;  // [hidden]           gain
    Matrix weight;      // [vocab, hidden]
    float eps;
    float* logits;  // [outputs, vocab]   out
    int outputs, hidden, vocab;
};

// How to choose one token. The neutral value of each is its default.
struct SamplingParameters {
    bool operator==(const SamplingParameters&) const = default;

    double temperature = 1.0;  // 0: the most likely token, ties to the lower id
    int top_k = 0;             // 0: all
    double top_p = 1.0;
    double min_p = 0.0;
    double repetition_penalty = 1.0;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    uint64_t seed = 0;
};

struct TokenBias {
    int token;
    double bias;
};

// How often a token stands in a sequence.
struct TokenCount {
    int token;
    int generated;  // times generated; 0: it stands in the prompt only
};

// What one row's choice needs.
struct SampleRow {
    SamplingParameters parameters;
    const TokenBias* bias;   // [biases]
    const TokenCount* seen;  // [seen_tokens]   distinct tokens
    const uint32_t* mask;    // [mask_words(vocab)]   bit t % 32 of word t / 32: token t may be
                             // chosen; null: any may. Bits from vocab on say nothing.
    uint64_t position;       // of the token to be chosen
    int biases, seen_tokens, top_logprobs;
};

constexpr int mask_words(int vocab) { return (vocab + 31) / 32; }

// Choose a token for each row. In this order: mask, bias, repetition penalty (on all tokens seen),
// presence and frequency penalty (on generated ones), temperature, top_k, top_p, min_p, one draw
// from the generator of (seed, position) over the tokens left by rising id.
struct SampleArgs {
    const float* logits;      // [outputs, vocab]
    const SampleRow* row;     // [outputs]
    TopLogprob* chosen;       // [outputs]   out; token -1: the logits were not finite,
                              // or the mask allows no token
    TopLogprob* top_logprob;  // [outputs, kMostTopLogprobs]   out: most likely first, ties to the
                              // lower id; top_logprobs of them
    int outputs, vocab;
};
constexpr int kMostTopLogprobs = 1024;

}  // namespace gptoss

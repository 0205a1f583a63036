// Host functions of the stages' kernels, one .cu file each; a stage's own file says how its work is
// split. They check nothing that CudaBackend has checked, launch on device.stream, and return.
#pragma once

#include "backend/cuda/device.h"
#include "backend/stages.h"

namespace gptoss::cuda {

// Rows that share an expert, as prefill_product.cuh takes them.
struct RowTile;

// Rows of a RowTile at most: what registers allow.
constexpr int pair_tile_rows(int terms) { return terms > 2 ? 32 : 128; }
constexpr int kMostSplits = 8;  // shares of a panel's columns (dense_decode.cuh, Splits)

// What kernels hand to each other beside the stages' buffers. Counters are zero between kernels.
struct Scratch {
    std::byte* rows = nullptr;       // [prefill rows, widest] activations in the backend's own form
    float* partial = nullptr;        // [prefill rows * top_k, hidden]
    float* scores = nullptr;         // [prefill rows, experts]
    int* sorted = nullptr;           // [prefill rows * top_k]   pairs by expert
    RowTile* tiles = nullptr;        // [most_tiles]
    int* tile_count = nullptr;       // [1]
    float* split_sums = nullptr;     // see Splits
    unsigned* counters = nullptr;    // [counters]
    std::byte* attention = nullptr;  // of attention_scratch_bytes()
    std::byte* sample = nullptr;     // of sample_scratch_bytes()
    int most_tiles = 0;
};

struct NormArgs {
    const float* x;     // [rows, columns]
    const float* gain;  // [columns]; null: no norm
    float eps;
    int rows, columns;
    Precision precision;
};
// norm.cu: rows of float in the prefill form (prefill_form.cuh).
void norm_rows(const Device& device, const NormArgs& args, std::byte* own);
// For tests: the other way, without the norm; the decode form's rows, of f16 terms, too.
void read_rows(const Device& device, Precision precision, Form form, const std::byte* own, int rows,
               int columns, float* out);

// sort_pairs.cu: fills scratch.sorted, tiles and tile_count.
void sort_pairs(const Device& device, const int* expert, int pairs, int experts, int terms,
                const Scratch& scratch);

// RowTiles that sort_pairs makes at most.
inline int pair_tiles(int pairs, int experts, int terms) {
    const int rows = pair_tile_rows(terms);
    return (pairs + rows - 1) / rows + (pairs < experts ? pairs : experts);
}

// read.cu: reads the range and keeps almost nothing, to measure how fast that is.
void read_memory(const Device& device, const std::byte* data, size_t bytes, float* out);
// Copies, for the same reason.
void copy_memory(const Device& device, const std::byte* from, std::byte* to, size_t bytes);

void embed(const Device& device, const EmbedArgs& args);
void qkv(const Device& device, Precision precision, const QkvArgs& args, const Scratch& scratch);
void attn_out(const Device& device, Precision precision, const AttnOutArgs& args,
              const Scratch& scratch);
void router(const Device& device, Precision precision, const RouterArgs& args,
            const Scratch& scratch);
void moe_up(const Device& device, Precision precision, const MoeUpArgs& args,
            const Scratch& scratch);
void moe_down(const Device& device, Precision precision, const MoeDownArgs& args,
              const Scratch& scratch);
void logits(const Device& device, Precision precision, const LogitsArgs& args);

// attention_decode.cu: one query row at a time, for decode steps and for exact precision. `scratch`
// is of attention_scratch_bytes() and zeroed once; kernels leave its counters at zero.
size_t attention_scratch_bytes(const Device& device, int rows, int heads, int kv_heads,
                               int head_dim);
void attention_decode(const Device& device, const AttentionArgs& args, std::byte* scratch);

// attention_prefill.cu: tiles of queries on the matrix units, float16 or fp8 cache.
void attention_prefill(const Device& device, const AttentionArgs& args);

// sample.cu: `scratch` is of sample_scratch_bytes(), contents undefined.
size_t sample_scratch_bytes(int outputs, int vocab);
void sample(const Device& device, const SampleArgs& args, std::byte* scratch);

}  // namespace gptoss::cuda

// The nine stages on the processor.
//
// Every stage splits its outputs into tasks that no thread count changes. An output's own sum runs
// in one order (kernels.h), so results depend on neither threads nor the rows beside a row.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/multiply_tiles.h"
#include "base/memory.h"
#include "base/thread_pool.h"

namespace gptoss::cpu {

// Activations into a product: float32 where every bit counts or weights are bf16, else blocks.
enum class ActivationForm { kFloat, kBlocks };

// Rows of a step: more make prefill faster and rings longer.
constexpr int kPrefillRows = 256;
constexpr int kTilePrefillRows = 1024;
// Where either way gives the same bits: rows of a step, and rows of an expert on the average, from
// which on multiplying in tiles is faster.
constexpr int kTiledRows = 5;
constexpr int kTiledPairs = 2;
constexpr int kDecodeRows = 64;

// Attention of fewer (row, KV head) pairs a thread than this splits a row's keys over the threads.
constexpr int kSplitBelow = 2;

// What stages need for themselves, for steps of prefill rows. The last six: tiles alone.
struct Scratch {
    std::byte* activations = nullptr;  // [rows][widest] floats, or blocks in their place
    float* staging = nullptr;          // [threads][widest]
    float* gate_rows = nullptr;        // [threads][kMostProductRows][widest]
    float* qkv = nullptr;              // [rows][qkv_rows]
    float* partial = nullptr;          // [rows][top_k][hidden]
    float* scores = nullptr;           // [threads][scores_stride]
    float* units = nullptr;            // [kSplitBelow * threads][most_units][unit_floats]
    int* sorted = nullptr;             // [rows * top_k]
    TileScratch tiles;
    std::byte* attention = nullptr;    // [threads][kAttentionBytes]
    const void** key_tiles = nullptr;  // [threads][2][most_key_tiles]
    size_t most_key_tiles = 0;
    size_t widest = 0, scores_stride = 0, unit_floats = 0;
    int most_units = 0;
};

class CpuBackend final : public Backend {
  public:
    CpuBackend(Precision precision, int threads);

    std::unique_ptr<PlacedModel> place(const ModelConfig& config,
                                       std::shared_ptr<const Published> published,
                                       WeightFormat dense, const Loading& loading) override;
    PlacedModel outline(const ModelConfig& config, WeightFormat dense) const override;
    BackendTraits traits() const override;
    size_t scratch_bytes(const ModelConfig& config) const override;
    void prepare(const ModelConfig& config) override;
    size_t available_bytes() const override { return available_memory(); }

    StageMemory allocate(size_t bytes, const std::string& purpose) override;
    void write(void* to, const void* from, size_t bytes) override;
    void read(void* to, const void* from, size_t bytes) override;
    void copy(void* to, const void* from, size_t bytes) override { write(to, from, bytes); }
    void synchronize() override {}
    void fetch(int slot, const void* from, size_t bytes) override;
    const std::byte* fetched(int slot) override { return fetched_[slot]; }
    void repeat(int, const std::function<void()>& stages) override { stages(); }
    double time(int calls, const std::function<void(int)>& work) override;
    void read_activations(const void* own, const MoeUpArgs& args, int rows, int columns,
                          float* out) override;
    double read_rate(const std::byte* data, size_t bytes) override;
    double copy_rate(size_t bytes) override;
    Precision precision() const override { return precision_; }
    std::vector<std::pair<std::string, std::string>> describe() const override;
    void embed(const EmbedArgs& args) override;
    void qkv(const QkvArgs& args) override;
    void attention(const AttentionArgs& args) override;
    void attn_out(const AttnOutArgs& args) override;
    void router(const RouterArgs& args) override;
    void moe_up(const MoeUpArgs& args) override;
    void moe_down(const MoeDownArgs& args) override;
    void logits(const LogitsArgs& args) override;
    void sample(const SampleArgs& args) override;

  private:
    ActivationForm activation_form(WeightFormat weights) const;
    Product product(WeightFormat weights) const;
    template <class RowOf, class Use>
    void multiply_dense(const Matrix& m, int rows, Form form, RowOf row_of, Use use);
    // Fills scratch_.partial.
    void down_products(const MoeDownArgs& args);
    // Fills scratch_.sorted, begin_ and active_: pairs (token * top_k + slot) by expert.
    void sort_by_expert(const int* expert, int pairs, int experts);
    // Calls use(expert, task, pair, rows) for each chosen expert, task in [0, tasks) and group of
    // its pairs, over the threads.
    template <class Use>
    void for_each_expert(const int* expert, int pairs, int experts, int tasks, Use use);

    // How a product is computed in tiles, or null: `enough` rows to be faster than one by one.
    const Tiles* tiles(Form form, WeightFormat format, bool enough) const {
        if (form == Form::kPrefill && prompt_tiles_) return prompt_tiles_;
        return enough && format != WeightFormat::kBf16 ? wide_tiles_ : nullptr;
    }
    const Tiles* expert_tiles(Form form, int tokens, int top_k, int experts) const;
    // In tiles (tile_stages.cpp): the products of their stages, and all of attention.
    void attention_tiled(const AttentionArgs& args);
    void moe_up_tiled(const MoeUpArgs& args, const Tiles& tiles);
    void moe_down_tiled(const MoeDownArgs& args, const Tiles& tiles);
    // Some of an expert's pairs, which share a pass over its weights.
    struct RowBlock {
        int expert, first, rows;  // in scratch_.sorted
        int tile;                 // where their activations begin in scratch_.tiles.x
    };
    // In tiles act stays in scratch, by expert: the rows that moe_down takes.
    TileRow act_row(const Tiles& tiles, const RowBlock& block, int row, int inner) const;
    void read_tiled_activations(const void* own, const MoeUpArgs& args, const Tiles& tiles,
                                int rows, int columns, float* out);
    // Sorts pairs, and fills blocks_.
    void sort_into_blocks(const int* expert, int pairs, int experts);
    // Calls use(block, StripOutputs) for the products of each block with rows x_of(block, thread).
    template <class XOf, class Use>
    void multiply_experts(const Tiles& tiles, const Matrix& m, XOf x_of, Use use);

    const Precision precision_;
    const Isa isa_;
    const Kernels& kernels_;
    const Tiles* const prompt_tiles_;  // the prefill form; null: it is computed as the decode form
    const Tiles* const wide_tiles_;    // many rows in the decode form, the same bits; or null
    ThreadPool pool_;

    Memory memory_;
    Scratch scratch_;
    std::byte fetched_[2][kFetchBytes];
    std::vector<int> begin_;   // [experts + 1]   where an expert's pairs start in scratch_.sorted
    std::vector<int> active_;  // experts with pairs
    std::vector<RowBlock> blocks_;
    std::vector<const RowBlock*> held_;  // [threads]   whose rows are in scratch_.tiles.rows
};

}  // namespace gptoss::cpu

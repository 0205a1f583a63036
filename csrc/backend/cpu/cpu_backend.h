// The nine stages on the processor.
//
// Every stage splits its outputs into tasks that no thread count changes. An output's own sum runs
// in one order (kernels.h), so results depend on neither threads nor the rows beside a row.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "base/thread_pool.h"

namespace gptoss::cpu {

// Activations into a product: float32 where every bit counts or weights are bf16, else blocks.
enum class ActivationForm { kFloat, kBlocks };

// Attention of fewer (row, KV head) pairs a thread than this splits a row's keys over the threads.
constexpr int kSplitBelow = 2;

class CpuBackend final : public Backend {
  public:
    CpuBackend(Precision precision, int threads);

    std::unique_ptr<PlacedModel> place(const ModelConfig& config, const ModelTensors& tensors,
                                       const TensorSource& source, WeightFormat dense,
                                       const Progress& progress) override;
    PlacedModel outline(const ModelConfig& config, WeightFormat dense) const override;
    size_t prepare(const ModelConfig& config, int max_rows) override;

    void read_activations(const void* own, int rows, int columns, float* out) const override;
    double read_rate(const std::byte* data, size_t bytes) override;
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
    ActivationForm form(WeightFormat weights) const;
    Product product(WeightFormat weights) const;
    // Normalises a row of x into `out` in the form asked for, by way of the thread's staging row.
    void norm_row(const float* x, const float* gain, int hidden, float eps, ActivationForm form,
                  std::byte* out, int thread);
    // Fills sorted_, begin_ and active_: pairs (token * top_k + slot) by expert.
    void sort_by_expert(const int* expert, int pairs, int experts);
    // Calls use(expert, task, pair, rows) for each chosen expert, task in [0, tasks) and group of
    // its pairs, over the threads.
    template <class Use>
    void for_each_expert(const int* expert, int pairs, int experts, int tasks, Use use);

    const Precision precision_;
    const Kernels& kernels_;
    ThreadPool pool_;

    // Scratch, sized by prepare().
    Memory memory_;
    std::byte* activations_ = nullptr;  // [max_rows][widest] floats, or blocks in their place
    float* staging_ = nullptr;          // [threads][widest]
    float* qkv_ = nullptr;              // [max_rows][qkv_rows]
    float* partial_ = nullptr;          // [max_rows][top_k][hidden]
    float* scores_ = nullptr;           // [threads][scores_stride]
    float* units_ = nullptr;            // [kSplitBelow * threads][most_units][unit_floats]
    int* sorted_ = nullptr;             // [max_rows * top_k]
    size_t widest_ = 0, scores_stride_ = 0, unit_floats_ = 0;
    int most_units_ = 0;
    std::vector<int> begin_;   // [experts + 1]   where an expert's pairs start in sorted_
    std::vector<int> active_;  // experts with pairs
};

}  // namespace gptoss::cpu

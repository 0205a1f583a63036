// The nine stages on a CUDA device.
//
// All stages run on one stream, in order; a decode step is recorded as a graph for each number of
// rows when it is first asked for. Results do not depend on what else runs (the .cu files say how).
#pragma once

#include <map>
#include <memory>

#include "backend/backend.h"
#include "backend/cuda/stage_kernels.h"
#include "base/memory.h"

namespace gptoss::cuda {

class CudaBackend final : public Backend {
  public:
    // Throws DeviceError where there is no such device, or none that these kernels run on.
    CudaBackend(int index, Precision precision, int loading_threads);
    ~CudaBackend() override;
    CudaBackend(const CudaBackend&) = delete;
    CudaBackend& operator=(const CudaBackend&) = delete;

    BackendTraits traits() const override;
    std::unique_ptr<PlacedModel> place(const ModelConfig& config,
                                       std::shared_ptr<const Published> published,
                                       WeightFormat dense, const Loading& loading) override;
    PlacedModel outline(const ModelConfig& config, WeightFormat dense) const override;
    size_t scratch_bytes(const ModelConfig& config) const override;
    void prepare(const ModelConfig& config) override;
    size_t available_bytes() const override;

    StageMemory allocate(size_t bytes, const std::string& purpose) override;
    void write(void* to, const void* from, size_t bytes) override;
    void read(void* to, const void* from, size_t bytes) override;
    void copy(void* to, const void* from, size_t bytes) override;
    void synchronize() override;
    void fetch(int slot, const void* from, size_t bytes) override;
    const std::byte* fetched(int slot) override;
    void repeat(int key, const std::function<void()>& stages) override;
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
    void release();
    // Of `lost`, SquaredErrors (repack.cuh) in the order of the tensors' names.
    std::vector<std::pair<std::string, double>> dense_errors(const std::vector<std::string>& names,
                                                             const StageMemory& lost);
    Scratch carve(const ModelConfig& config, Carver& carver) const;
    cudaGraphExec_t record(const std::function<void()>& stages);

    const Precision precision_;
    const int loading_threads_;
    WeightFormat dense_ = WeightFormat::kBf16;
    std::string name_;
    Device device_;
    StageMemory memory_;
    Scratch scratch_;
    std::map<int, cudaGraphExec_t> graphs_;
    // Pinned memory that write() copies from, and where the next piece goes.
    std::byte* outbox_ = nullptr;
    size_t outbox_used_ = 0;
    // Pinned memory that fetch() copies to, and when it has arrived.
    std::byte* inbox_ = nullptr;  // [2][kFetchBytes]
    cudaEvent_t arrived_[2] = {};
};

}  // namespace gptoss::cuda

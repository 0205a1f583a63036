// Owns a model and runs its steps one at a time, whichever thread asks.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>

#include "model/model.h"

namespace gptoss {

class Engine {
  public:
    explicit Engine(std::unique_ptr<Model> model) : model_(std::move(model)) {}

    // Computes the rows and writes the logits [which.size(), vocab] of those named to `out`.
    void step(std::span<const Row> rows, std::span<const int> which, float* out);
    void sample(const SampleArgs& args);
    // Frees the weights. Later calls throw InvalidArgument.
    void close();

    bool closed() const { return closed_; }
    // Calls use(model) while no step runs. Throws InvalidArgument after close().
    template <class Use>
    auto with_model(Use use) {
        std::lock_guard lock(mutex_);
        return use(open_model());
    }

  private:
    Model& open_model();

    std::mutex mutex_;
    std::atomic<bool> closed_{false};
    std::unique_ptr<Model> model_;
};

}  // namespace gptoss

#include "session/engine.h"

#include "base/error.h"

namespace gptoss {

Model& Engine::open_model() {
    if (!model_) throw InvalidArgument("the model is closed");
    return *model_;
}

void Engine::step(std::span<const Row> rows, std::span<const int> which, float* out) {
    std::lock_guard lock(mutex_);
    Model& model = open_model();
    model.forward(rows);
    if (!which.empty()) model.logits(which, out);
}

void Engine::sample(const SampleArgs& args) {
    std::lock_guard lock(mutex_);
    open_model().backend().sample(args);
}

void Engine::close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    model_.reset();
}

}  // namespace gptoss

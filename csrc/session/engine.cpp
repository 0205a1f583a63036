#include "session/engine.h"

#include "base/error.h"
#include "session/session.h"

namespace gptoss {

Model& Engine::open_model() {
    if (!model_) throw InvalidArgument("the model is closed");
    return *model_;
}

void Engine::step(std::span<const Row> rows, std::span<const int> which, float* out) {
    with_model([&](Model& model) {
        model.forward(rows);
        if (!which.empty()) model.logits(which, out);
    });
}

void Engine::sample(const SampleArgs& args) {
    with_model([&](Model& model) { model.backend().sample(args); });
}

void Engine::add(std::weak_ptr<Session> session) {
    std::lock_guard lock(mutex_);
    std::erase_if(sessions_, [](const auto& known) { return known.expired(); });
    sessions_.push_back(std::move(session));
}

void Engine::close() {
    if (home_.left()) return;
    std::vector<std::weak_ptr<Session>> sessions;
    {
        std::lock_guard lock(mutex_);
        closed_ = true;
        model_.reset();
        sessions.swap(sessions_);
    }
    // A session's lock comes before the engine's.
    for (const auto& known : sessions)
        if (const auto session = known.lock()) session->close();
}

}  // namespace gptoss

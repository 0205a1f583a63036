#include "session/engine.h"

#include "base/error.h"
#include "session/session.h"

namespace gptoss {

Model& Engine::open_model() {
    if (closed_) throw InvalidArgument("the model is closed");
    return *model_;
}

void Engine::add(std::weak_ptr<Session> session) {
    const auto lock = mutex_.lock();
    std::erase_if(sessions_, [](const auto& known) { return known.expired(); });
    sessions_.push_back(std::move(session));
}

void Engine::close() {
    if (mutex_.home().left()) return;
    closed_ = true;
    if (mutex_.mine()) return;
    std::vector<std::weak_ptr<Session>> sessions;
    {
        const auto lock = mutex_.lock();
        model_.reset();
        sessions.swap(sessions_);
    }
    // A session's lock comes before the engine's.
    for (const auto& known : sessions)
        if (const auto session = known.lock()) session->close();
}

}  // namespace gptoss

// Owns a model and runs its steps one at a time, whichever thread asks.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "base/float_environment.h"
#include "base/owned_mutex.h"
#include "model/model.h"

namespace gptoss {

class Session;

class Engine {
  public:
    explicit Engine(std::unique_ptr<Model> model) : model_(std::move(model)) {}

    // Frees the weights and the caches of all sessions; from within a step of this thread, when
    // the step ends. Later calls throw InvalidArgument. Does nothing in a forked child, whose
    // memory is not its own.
    void close();
    // Sessions whose caches close() frees.
    void add(std::weak_ptr<Session> session);

    bool closed() const { return closed_; }
    // Calls use(model) while no step runs. Throws InvalidArgument after close().
    template <class Use>
    auto with_model(Use use) {
        const auto lock = mutex_.lock();
        const DefaultFloatEnvironment environment;
        return use(open_model());
    }
    // The same for a use that may be ended by a signal handler, which may have closed the model.
    template <class Use>
    auto step(Use use) {
        try {
            return with_model(use);
        } catch (...) {
            // Closed by a handler on this very thread, which had to leave it to us.
            if (closed_) close();
            throw;
        }
    }

  private:
    Model& open_model();

    OwnedMutex mutex_;
    std::atomic<bool> closed_{false};
    std::unique_ptr<Model> model_;
    std::vector<std::weak_ptr<Session>> sessions_;
};

}  // namespace gptoss

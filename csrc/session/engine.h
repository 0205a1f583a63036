// Owns a model and runs its steps one at a time, whichever thread asks.
//
// There is no thread of its own: who wants a token of a session queues its row, and whoever of
// those gets the lock computes the rows of all that wait, in one step. A prompt's step begins with
// what waits, and comes after one such step at most: neither holds the other up for longer.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "base/float_environment.h"
#include "base/owned_mutex.h"
#include "model/model.h"

namespace gptoss {

class Session;

// A row of a decode step that many sessions may share.
struct DecodeRequest {
    const void* who;                     // the session
    std::function<Row(Model&)> prepare;  // makes room in its cache; may set `more`, may throw
    const SampleRequest* sample;
    bool more = false;  // as in Model::decode()
    // Written before `done`, which is under the queue's lock.
    Choice choice;
    std::exception_ptr failure;
    bool done = false;
};

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
    // Marks this thread as within a step of the engine while it calls a user's code between two.
    class CallingBack {
      public:
        explicit CallingBack(const Engine& engine)
            : before_(std::exchange(calling_back_, &engine)) {}
        ~CallingBack() { calling_back_ = before_; }
        CallingBack(const CallingBack&) = delete;
        CallingBack& operator=(const CallingBack&) = delete;

      private:
        const Engine* before_;
    };
    // Whether this thread is within a step, or marked so.
    bool mine() const { return mutex_.mine() || calling_back_ == this; }
    // Computes the request's row, with those of others. Throws what became of it; what `interrupt`
    // throws ends only this one.
    void decode(DecodeRequest& request, const Interrupt& interrupt);
    // A step of other rows, after what waits.
    template <class Use>
    void step_after_waiting(const Interrupt& interrupt, Use use) {
        const PromptWaits waits(*this);
        step([&](Model& model) {
            waits.end();
            serve(model, interrupt);
            use(model);
            prompt_ended();
        });
    }
    // Whether another than `who` has had tokens lately.
    bool others_stream(const void* who) const;
    // Calls use(model) while no step runs. Throws InvalidArgument after close().
    template <class Use>
    auto with_model(Use use) {
        check_caller();
        const Leaving leaving(*this);
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
    using Clock = std::chrono::steady_clock;

    // Tells those who wait that the lock is free, after it is.
    struct Leaving {
        explicit Leaving(Engine& engine) : engine_(engine) {}
        ~Leaving() { engine_.tell_left(); }
        Engine& engine_;
    };
    // A prompt's step that waits for the lock.
    class PromptWaits {
      public:
        explicit PromptWaits(Engine& engine) : engine_(engine) { ++engine_.prompts_waiting_; }
        ~PromptWaits() { end(); }
        void end() const {
            if (std::exchange(waits_, false)) --engine_.prompts_waiting_;
        }

      private:
        Engine& engine_;
        mutable bool waits_ = true;
    };

    void check_caller() const {
        if (calling_back_ == this) OwnedMutex::refuse();
    }
    Model& open_model();
    // Computes one batch, if the lock is free. False if it is not. What it throws ends the request.
    bool lead(DecodeRequest& request, const Interrupt& interrupt);
    // Under the lock: computes one batch of what waits, if anything does.
    void serve(Model& model, const Interrupt& interrupt);
    void run(Model& model, std::vector<DecodeRequest*>& batch, const Interrupt& interrupt);
    void finish(DecodeRequest& request, std::exception_ptr failure);
    void wait_for_the_last();
    std::vector<DecodeRequest*> take_waiting(size_t most);
    void take_back(const DecodeRequest& request);
    void put_back(const std::vector<DecodeRequest*>& batch);
    void prompt_ended();
    void tell_left();

    std::atomic<int> prompts_waiting_{0};
    std::condition_variable changed_;  // something is done, or the lock is free
    mutable std::mutex queue_mutex_;
    // Under queue_mutex_:
    std::condition_variable arrived_;
    uint64_t left_ = 0;  // how often the lock has become free
    std::deque<DecodeRequest*> waiting_;
    std::vector<const void*> last_batch_;  // who was in it
    Clock::time_point last_time_;          // when it ended
    Clock::duration last_duration_{};
    bool overlap_ = false;       // several ask at a time
    bool decoded_last_ = false;  // the last step was not a prompt's

    static inline thread_local const Engine* calling_back_ = nullptr;
    OwnedMutex mutex_;
    std::atomic<bool> closed_{false};
    std::unique_ptr<Model> model_;
    std::vector<std::weak_ptr<Session>> sessions_;
};

}  // namespace gptoss

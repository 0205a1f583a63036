// Owns a model and what its sessions share: the steps, one at a time, whichever thread asks; the
// memory for caches; and the prefixes that were computed before.
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
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/float_environment.h"
#include "base/owned_mutex.h"
#include "model/model.h"
#include "session/admission.h"
#include "session/prefix_cache.h"

namespace gptoss {

class Session;

// What a session needs from the engine before it may go on.
struct AdmissionCall {
    std::function<size_t(Model&)> missing;   // bytes that it may take until its plan's end
    std::function<void(Model&)> take;        // puts its cache on the device
    std::function<void(Model&)> spill = {};  // and takes it off
    // Forgets what it can do without, but computes again; false if there is nothing more.
    std::function<bool()> shrink = [] { return false; };
    std::function<void()> withdraw = [] {};  // it has to wait: holds nothing others may need
};

// Thrown by what a step prepares: the session has to be admitted again first.
struct NotAdmitted {};

// Rows of a decode step that many sessions may share: the last token of one, and those that are
// guessed to follow it.
struct DecodeRequest {
    const void* who;  // the session
    int priority = 0;
    // Makes room in its cache; may set `more`, may throw.
    std::function<std::vector<Row>(Model&)> prepare;
    std::span<const SampleRequest> samples;  // for each of the rows
    bool more = false;                       // as in Model::decode()
    // Written before `done`, which is under the queue's lock.
    std::vector<Choice> choices;
    std::exception_ptr failure;
    bool done = false;
    // Wakes the thread that waits, which may be gone as soon as it is done.
    std::shared_ptr<std::condition_variable> changed;
};

// What an engine has and takes, in bytes and counts.
struct EngineUse {
    size_t kv_bytes = 0, kv_used = 0, kv_promised = 0, kv_spilled = 0;
    size_t prefix_bytes = 0, prefix_used = 0, prefixes = 0;
    int streams = 0, waiting = 0;
};

class Engine {
  public:
    Engine(std::unique_ptr<Model> model, const EngineLimits& limits);

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
    // Whether this is a forked child of the engine's process.
    bool left_home() const { return mutex_.home().left(); }
    // Whether this thread is within a step, or marked so.
    bool mine() const { return mutex_.mine() || calling_back_ == this; }
    // Computes the request's row, with those of others. Throws what became of it; what `interrupt`
    // throws ends only this one.
    void decode(DecodeRequest& request, const Interrupt& interrupt);
    // A step of other rows, after what waits; the one of most priority first.
    template <class Use>
    void step_after_waiting(int priority, const Interrupt& interrupt, Use use) {
        const PromptWaits waits(*this, priority);
        while (!waits.first()) {
            // A handler that asks for a step would wait for this one.
            const CallingBack calling(*this);
            if (interrupt) interrupt();
            admission_->wait(kLook);
        }
        step([&](Model& model) {
            waits.end();
            serve(model, interrupt);
            use(model);
            prompt_ended();
        });
    }
    // What a decode step of so many rows takes, as far as that is known, against one of one row.
    double decode_cost(int rows) const;
    // Rows of others in the last decode step that had one of `who`.
    int rows_beside(const void* who) const;
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

    // A right to go on, not had yet; its end gives it back.
    std::shared_ptr<Reservation> reserve(const void* who, int priority);
    // Waits until the session may go on. Throws EngineBusy where too many wait, OutOfMemory where
    // there could never be enough, and what `pause` throws, which is called while it waits.
    void admit(Reservation& reservation, const AdmissionCall& call, const Interrupt& pause);
    // The same for what is done at once, within `take`, and promises nothing. Throws EngineBusy
    // where there is no room for it.
    void admit_at_once(const void* who, const AdmissionCall& call);
    Admission& admission() { return *admission_; }
    // Under the lock: makes room for so many bytes out of cached prefixes. False if that is not
    // enough.
    bool spare(size_t bytes);
    EngineUse use() const;  // under the lock
    PrefixCache& prefixes() { return prefixes_; }
    const std::shared_ptr<KvBudget>& budget() const { return budget_; }

  private:
    using Clock = std::chrono::steady_clock;

    // How long to wait at most for a word that the lock is free: who is first in the queue, which
    // is whom it goes to, and the others.
    static constexpr auto kLook = std::chrono::milliseconds(5),
                          kLookBehind = std::chrono::milliseconds(100);

    // Tells those who wait that the lock is free, after it is.
    struct Leaving {
        explicit Leaving(Engine& engine) : engine_(engine) {}
        ~Leaving() { engine_.tell_left(); }
        Engine& engine_;
    };
    // A prompt's step that waits for the lock.
    class PromptWaits {
      public:
        PromptWaits(Engine& engine, int priority);
        ~PromptWaits() { end(); }
        // Whether none of more priority waits.
        bool first() const;
        void end() const;

      private:
        Engine& engine_;
        const int priority_;
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
    void wake_first();  // under queue_mutex_
    bool try_admit(Model& model, Reservation& reservation, const AdmissionCall& call, int attempts);
    bool make_room(Model& model, const Reservation& reservation, const AdmissionCall& call,
                   bool alone);
    bool spill_one(Model& model, const Reservation& reservation);

    std::atomic<int> prompts_waiting_{0};
    mutable std::mutex queue_mutex_;
    // Under queue_mutex_:
    std::condition_variable arrived_;
    uint64_t left_ = 0;  // how often the lock has become free
    std::deque<DecodeRequest*> waiting_;
    std::multiset<int> prompt_priorities_;  // of those that wait
    std::vector<const void*> last_batch_;   // who was in it
    std::unordered_set<const void*> away_;  // of those, who is not back for the next token
    Clock::duration last_duration_{};
    bool overlap_ = false;       // several ask at a time
    bool decoded_last_ = false;  // the last step was not a prompt's
    int last_rows_ = 0;
    std::map<int, double> decode_seconds_;  // of a step of so many rows, lately

    static inline thread_local const Engine* calling_back_ = nullptr;
    OwnedMutex mutex_;
    std::atomic<bool> closed_{false};
    std::unique_ptr<Model> model_;
    std::vector<std::weak_ptr<Session>> sessions_;
    const std::shared_ptr<KvBudget> budget_;
    const std::shared_ptr<Admission> admission_;
    PrefixCache prefixes_;
};

}  // namespace gptoss

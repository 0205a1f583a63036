#include "session/engine.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "session/session.h"

namespace gptoss {
namespace {

// Those of the batch before are back for their next token within this, unless they have ended: a
// twentieth of a step, between these two.
constexpr std::chrono::nanoseconds kLeastGather = std::chrono::microseconds(200),
                                   kMostGather = std::chrono::milliseconds(5);
// How long to wait at most for a word that the lock is free.
constexpr auto kLook = std::chrono::milliseconds(5);
// A stream that had a token so long ago is still one to keep moving.
constexpr auto kStreaming = std::chrono::seconds(2);

}  // namespace

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

void Engine::decode(DecodeRequest& request, const Interrupt& interrupt) {
    mutex_.check();
    check_caller();
    {
        std::lock_guard lock(queue_mutex_);
        waiting_.push_back(&request);
    }
    arrived_.notify_one();
    std::unique_lock lock(queue_mutex_);
    while (!request.done) {
        if (prompts_waiting_ == 0 || !decoded_last_) {
            const uint64_t seen = left_;
            lock.unlock();
            const bool led = lead(request, interrupt);
            lock.lock();
            if (led) {
                ++left_;
                changed_.notify_all();
            }
            if (led || left_ != seen) continue;
        }
        changed_.wait_for(lock, kLook);
    }
    if (request.failure) std::rethrow_exception(request.failure);
}

bool Engine::lead(DecodeRequest& request, const Interrupt& interrupt) {
    try {
        const auto lock = mutex_.try_lock();
        if (!lock) return false;
        try {
            const DefaultFloatEnvironment environment;
            Model& model = open_model();
            wait_for_the_last();
            serve(model, interrupt);
            return true;
        } catch (...) {
            // Before another may lead, and find a request whose owner has gone.
            take_back(request);
            throw;
        }
    } catch (...) {
        // As step() does.
        if (closed_) close();
        throw;
    }
}

void Engine::finish(DecodeRequest& request, std::exception_ptr failure) {
    std::lock_guard lock(queue_mutex_);
    request.failure = std::move(failure);
    request.done = true;
    changed_.notify_all();
}

void Engine::tell_left() {
    std::lock_guard lock(queue_mutex_);
    ++left_;
    changed_.notify_all();
}

void Engine::prompt_ended() {
    std::lock_guard lock(queue_mutex_);
    decoded_last_ = false;
}

bool Engine::others_stream(const void* who) const {
    std::lock_guard lock(queue_mutex_);
    if (!waiting_.empty()) return true;
    return Clock::now() - last_time_ < kStreaming &&
           std::any_of(
               last_batch_.begin(), last_batch_.end(),
               [&](const void* other) { return other != who; });
}

void Engine::wait_for_the_last() {
    std::unique_lock lock(queue_mutex_);
    if (!overlap_) return;
    const auto gather =
        std::clamp<std::chrono::nanoseconds>(last_duration_ / 20, kLeastGather, kMostGather);
    arrived_.wait_for(lock, gather, [&] {
        return std::all_of(last_batch_.begin(), last_batch_.end(), [&](const void* who) {
            return std::any_of(waiting_.begin(), waiting_.end(),
                               [&](const DecodeRequest* r) { return r->who == who; });
        });
    });
}

std::vector<DecodeRequest*> Engine::take_waiting(size_t most) {
    std::lock_guard lock(queue_mutex_);
    const auto count = static_cast<std::ptrdiff_t>(std::min(most, waiting_.size()));
    std::vector<DecodeRequest*> out(waiting_.begin(), waiting_.begin() + count);
    waiting_.erase(waiting_.begin(), waiting_.begin() + count);
    return out;
}

void Engine::take_back(const DecodeRequest& request) {
    std::lock_guard lock(queue_mutex_);
    std::erase(waiting_, &request);
}

void Engine::put_back(const std::vector<DecodeRequest*>& batch) {
    std::lock_guard lock(queue_mutex_);
    waiting_.insert(waiting_.begin(), batch.begin(), batch.end());
}

void Engine::serve(Model& model, const Interrupt& interrupt) {
    std::vector<DecodeRequest*> batch = take_waiting(model.step_rows(Form::kDecode));
    if (batch.empty()) return;
    const auto start = Clock::now();
    // Once a request is finished it is gone.
    std::vector<const void*> who;
    try {
        for (const DecodeRequest* request : batch) who.push_back(request->who);
    } catch (...) {
        put_back(batch);
        throw;
    }
    bool interrupted = false;
    const Interrupt watched = [&] {
        try {
            if (interrupt) interrupt();
        } catch (...) {
            interrupted = true;
            throw;
        }
    };
    try {
        run(model, batch, watched);
    } catch (...) {
        // The caller's own end is not that of the others, nor is what one row brings about.
        if (interrupted) {
            put_back(batch);
            throw;
        }
        for (size_t i = 0; i < batch.size(); ++i) {
            std::vector<DecodeRequest*> alone = {batch[i]};
            try {
                run(model, alone, watched);
            } catch (...) {
                if (interrupted) {
                    put_back({batch.begin() + static_cast<std::ptrdiff_t>(i), batch.end()});
                    throw;
                }
                finish(*batch[i], std::current_exception());
            }
        }
    }
    std::lock_guard lock(queue_mutex_);
    last_batch_ = std::move(who);
    last_time_ = Clock::now();
    last_duration_ = last_time_ - start;
    overlap_ = last_batch_.size() > 1 || !waiting_.empty();
    decoded_last_ = true;
}

void Engine::run(Model& model, std::vector<DecodeRequest*>& batch, const Interrupt& interrupt) {
    std::vector<Row> rows;
    std::vector<SampleRequest> samples;
    std::vector<DecodeRequest*> prepared;
    // Only prepare() may throw below, once a request may be finished and gone.
    rows.reserve(batch.size());
    samples.reserve(batch.size());
    prepared.reserve(batch.size());
    bool more = true;
    for (DecodeRequest* request : batch) {
        try {
            rows.push_back(request->prepare(model));
        } catch (...) {
            finish(*request, std::current_exception());
            continue;
        }
        samples.push_back(*request->sample);
        prepared.push_back(request);
        more = more && request->more;
    }
    batch.swap(prepared);
    if (batch.empty()) return;
    std::vector<Choice> choices = model.decode(rows, samples, more, interrupt);
    for (size_t i = 0; i < batch.size(); ++i) {
        batch[i]->choice = std::move(choices[i]);
        finish(*batch[i], nullptr);
    }
}

}  // namespace gptoss

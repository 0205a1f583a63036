#include "session/engine.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "session/session.h"

namespace gptoss {
namespace {

// Those of the batch before are back for their next token within this, unless they have ended: a
// twentieth of a step, between these two.
constexpr std::chrono::nanoseconds kLeastGather = std::chrono::microseconds(200),
                                   kMostGather = std::chrono::milliseconds(5);

// Of one more row, against a step of one, until it is known.
constexpr double kCostOfRow = 0.3;
constexpr double kCostWeight = 0.2;

}  // namespace

Engine::Engine(std::unique_ptr<Model> model, const EngineLimits& limits)
    : model_(std::move(model)),
      budget_(std::make_shared<KvBudget>(limits.kv_bytes)),
      admission_(std::make_shared<Admission>(limits)),
      prefixes_(limits.prefix_bytes) {}

Engine::PromptWaits::PromptWaits(Engine& engine, int priority)
    : engine_(engine), priority_(priority) {
    std::lock_guard lock(engine_.queue_mutex_);
    engine_.prompt_priorities_.insert(priority_);
    ++engine_.prompts_waiting_;
}

bool Engine::PromptWaits::first() const {
    std::lock_guard lock(engine_.queue_mutex_);
    return engine_.closed_ || *engine_.prompt_priorities_.rbegin() <= priority_;
}

void Engine::PromptWaits::end() const {
    if (!std::exchange(waits_, false)) return;
    std::lock_guard lock(engine_.queue_mutex_);
    --engine_.prompts_waiting_;
    engine_.prompt_priorities_.erase(engine_.prompt_priorities_.find(priority_));
}

Model& Engine::open_model() {
    if (closed_) throw InvalidArgument("the model is closed");
    return *model_;
}

void Engine::add(std::weak_ptr<Session> session) {
    const Leaving leaving(*this);
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
        const Leaving leaving(*this);
        const auto lock = mutex_.lock();
        prefixes_.clear();
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
    // One's own: a word for one is not to wake all.
    const auto changed = request.changed = std::make_shared<std::condition_variable>();
    std::unique_lock lock(queue_mutex_);
    waiting_.push_back(&request);
    if (away_.erase(request.who) && away_.empty()) arrived_.notify_one();
    while (!request.done) {
        // After close() the prompt that waits may be the one that frees this one's session.
        if (closed_ || prompts_waiting_ == 0 || !decoded_last_) {
            const uint64_t seen = left_;
            lock.unlock();
            const bool led = lead(request, interrupt);
            lock.lock();
            if (led) {
                ++left_;
                wake_first();
            }
            if (led || left_ != seen) continue;
        }
        const bool first = !waiting_.empty() && waiting_.front() == &request;
        changed->wait_for(lock, first ? kLook : kLookBehind);
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
        tell_left();
        throw;
    }
}

void Engine::finish(DecodeRequest& request, std::exception_ptr failure) {
    std::shared_ptr<std::condition_variable> changed;
    {
        std::lock_guard lock(queue_mutex_);
        changed = request.changed;
        request.failure = std::move(failure);
        request.done = true;
    }
    changed->notify_one();
}

void Engine::wake_first() {
    if (!waiting_.empty()) waiting_.front()->changed->notify_one();
}

void Engine::tell_left() {
    std::lock_guard lock(queue_mutex_);
    ++left_;
    wake_first();
}

void Engine::prompt_ended() {
    std::lock_guard lock(queue_mutex_);
    decoded_last_ = false;
}

double Engine::decode_cost(int rows) const {
    std::lock_guard lock(queue_mutex_);
    const auto one = decode_seconds_.begin();
    if (one == decode_seconds_.end() || one->first != 1) return 1 + kCostOfRow * (rows - 1);
    const auto after = decode_seconds_.lower_bound(rows);
    if (after != decode_seconds_.end() && after->first == rows) return after->second / one->second;
    // By the steps of most rows below and of fewest above.
    const auto before = std::prev(after);
    const double low = before->second / one->second;
    if (after == decode_seconds_.end()) return low + kCostOfRow * (rows - before->first);
    const double share = double(rows - before->first) / (after->first - before->first);
    return low + share * (after->second / one->second - low);
}

int Engine::rows_beside(const void* who) const {
    std::lock_guard lock(queue_mutex_);
    const auto others = std::count_if(last_batch_.begin(), last_batch_.end(),
                                      [&](const void* other) { return other != who; });
    return others ? std::max<int>(1, last_rows_ - 1) : 0;
}

void Engine::wait_for_the_last() {
    std::unique_lock lock(queue_mutex_);
    if (!overlap_) return;
    const auto gather =
        std::clamp<std::chrono::nanoseconds>(last_duration_ / 20, kLeastGather, kMostGather);
    arrived_.wait_for(lock, gather, [&] { return away_.empty(); });
}

std::vector<DecodeRequest*> Engine::take_waiting(size_t most) {
    std::lock_guard lock(queue_mutex_);
    if (std::any_of(waiting_.begin(), waiting_.end(), [](const auto* r) { return r->priority; }))
        std::stable_sort(waiting_.begin(), waiting_.end(),
                         [](const auto* a, const auto* b) { return a->priority > b->priority; });
    std::ptrdiff_t count = 0;
    for (size_t rows = 0; count < std::ssize(waiting_); ++count)
        if ((rows += waiting_[count]->samples.size()) > most) break;
    std::vector<DecodeRequest*> out(waiting_.begin(), waiting_.begin() + count);
    std::unordered_set<const void*> away;
    for (const DecodeRequest* request : out) away.insert(request->who);
    if (!out.empty()) away_.swap(away);
    waiting_.erase(waiting_.begin(), waiting_.begin() + count);
    return out;
}

void Engine::take_back(const DecodeRequest& request) {
    std::lock_guard lock(queue_mutex_);
    std::erase(waiting_, &request);
}

void Engine::put_back(const std::vector<DecodeRequest*>& batch) {
    std::lock_guard lock(queue_mutex_);
    for (const DecodeRequest* request : batch) away_.erase(request->who);
    waiting_.insert(waiting_.begin(), batch.begin(), batch.end());
}

void Engine::serve(Model& model, const Interrupt& interrupt) {
    std::vector<DecodeRequest*> batch = take_waiting(model.step_rows(Form::kDecode));
    if (batch.empty()) return;
    const auto start = Clock::now();
    // Once a request is finished it is gone.
    std::vector<const void*> who;
    int rows = 0;
    try {
        for (const DecodeRequest* request : batch) {
            who.push_back(request->who);
            rows += static_cast<int>(request->samples.size());
        }
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
    last_duration_ = Clock::now() - start;
    last_rows_ = rows;
    const double seconds = std::chrono::duration<double>(last_duration_).count();
    const auto [known, added] = decode_seconds_.try_emplace(rows, seconds);
    if (!added) known->second += kCostWeight * (seconds - known->second);
    overlap_ = last_batch_.size() > 1 || !waiting_.empty();
    decoded_last_ = true;
}

void Engine::run(Model& model, std::vector<DecodeRequest*>& batch, const Interrupt& interrupt) {
    std::vector<Row> rows;
    std::vector<SampleRequest> samples;
    std::vector<DecodeRequest*> prepared;
    // Only prepare() may throw below, once a request may be finished and gone.
    size_t most_rows = 0;
    for (const DecodeRequest* request : batch) most_rows += request->samples.size();
    rows.reserve(most_rows);
    samples.reserve(most_rows);
    prepared.reserve(batch.size());
    bool more = true;
    for (DecodeRequest* request : batch) {
        try {
            const std::vector<Row> prepared_rows = request->prepare(model);
            rows.insert(rows.end(), prepared_rows.begin(), prepared_rows.end());
        } catch (...) {
            finish(*request, std::current_exception());
            continue;
        }
        samples.insert(samples.end(), request->samples.begin(), request->samples.end());
        prepared.push_back(request);
        more = more && request->more;
    }
    batch.swap(prepared);
    if (batch.empty()) return;
    std::vector<Choice> choices = model.decode(rows, samples, more, interrupt);
    auto next = std::make_move_iterator(choices.begin());
    for (DecodeRequest* request : batch) {
        const auto count = static_cast<std::ptrdiff_t>(request->samples.size());
        try {
            request->choices.assign(next, next + count);
        } catch (...) {
            finish(*request, std::current_exception());
            next += count;
            continue;
        }
        next += count;
        finish(*request, nullptr);
    }
}

}  // namespace gptoss

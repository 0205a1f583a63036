#include "session/generation.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace gptoss {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

bool needs_counts(const Sampling& s) {
    return s.repetition_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
}

int most_tokens(const GenerateOptions& options, int room) {
    return static_cast<int>(std::min<int64_t>(options.max_new_tokens.value_or(room), room));
}

}  // namespace

Generation::Generation(std::shared_ptr<Session> session, std::vector<int> prompt,
                       GenerateOptions options, int room, uint64_t number)
    : session_(std::move(session)),
      prompt_(std::move(prompt)),
      sampling_(options.sampling),
      parameters_(parameters(options.sampling)),
      stop_ids_(options.stop_ids.begin(), options.stop_ids.end()),
      most_tokens_(most_tokens(options, room)),
      number_(number) {
    for (const auto& [token, bias] : sampling_.logit_bias)
        bias_.push_back({static_cast<int>(token), bias});
    stats_.seed = parameters_.seed;
}

std::optional<GeneratedToken> Generation::next(const Interrupt& interrupt,
                                               const Constraint* constraint) {
    const auto lock = session_->enter();
    if (stats_.finish_reason != FinishReason::kNone) return std::nullopt;
    session_->check_open();
    // The session has gone on without this stream.
    if (number_ != session_->generation_) {
        finish(FinishReason::kCancelled);
        return std::nullopt;
    }
    const auto start = Clock::now();
    const bool first = stats_.generated_tokens == 0;
    Choice choice;
    if (!advance(interrupt, constraint ? &constraint->fill_mask : nullptr, choice)) {
        finish(FinishReason::kCancelled);
        return std::nullopt;
    }
    if (constraint) accept(*constraint, choice);
    GeneratedToken token = {choice.chosen.token, choice.chosen.logprob,
                            std::move(choice.top_logprobs)};
    session_->append(token.id, Form::kDecode);
    if (needs_counts(sampling_)) count(token.id, true);
    {
        std::lock_guard stats_lock(stats_mutex_);
        ++stats_.generated_tokens;
        (first ? stats_.ttft_s : stats_.decode_s) += seconds_since(start);
    }
    if (std::find(stop_ids_.begin(), stop_ids_.end(), token.id) != stop_ids_.end())
        finish(FinishReason::kStop);
    else if (stats_.generated_tokens == most_tokens_)
        finish(FinishReason::kLength);
    return token;
}

// Computes what is new and chooses after the last position. False if cancelled.
bool Generation::advance(const Interrupt& interrupt, const FillMask* fill_mask, Choice& choice) {
    if (stats_.generated_tokens == 0) {
        if (needs_counts(sampling_)) {
            seen_.clear();
            seen_index_.clear();
            for (int token : session_->tokens_) count(token, false);
            for (int token : prompt_) count(token, false);
        }
        // Nothing new: the last position is computed again, to the same bits, for its logits.
        const int total = static_cast<int>(session_->tokens_.size());
        if (prompt_.empty() && session_->computed_ == total) --session_->computed_;
    }
    const std::vector<int> prompt = std::exchange(prompt_, {});
    const int cached = session_->computed_;
    SampleRequest request = {parameters_,
                             bias_,
                             seen_,
                             session_->tokens_.size() + prompt.size(),
                             static_cast<int>(sampling_.logprobs),
                             fill_mask};
    Session::Wanted wanted;
    wanted.request = &request;
    wanted.choice = &choice;
    wanted.more = stats_.generated_tokens + 1 < most_tokens_;
    bool whole = false;
    try {
        whole = session_->compute(prompt, wanted, interrupt, [this] { return cancelled_.load(); });
    } catch (...) {
        // What was computed stays; this stream cannot know where it would go on.
        finish(FinishReason::kCancelled);
        throw;
    }
    if (stats_.generated_tokens == 0) {
        // Chains of thought are dropped later, back to here.
        if (whole) session_->snapshot();
        std::lock_guard stats_lock(stats_mutex_);
        stats_.cached_tokens = cached;
        stats_.prefilled_tokens = session_->computed_ - cached;
    }
    return whole;
}

// A token that is not accepted, or whose mask failed, is not the session's.
void Generation::accept(const Constraint& constraint, const Choice& choice) {
    try {
        if (choice.failure) std::rethrow_exception(choice.failure);
        session_->call_back([&] { constraint.accept(choice.chosen.token); });
    } catch (...) {
        finish(FinishReason::kCancelled);
        throw;
    }
}

void Generation::count(int token, bool generated) {
    const auto [place, added] = seen_index_.try_emplace(token, seen_.size());
    if (added) seen_.push_back({token, 0});
    if (generated) ++seen_[place->second].generated;
}

void Generation::finish(FinishReason reason) {
    std::lock_guard stats_lock(stats_mutex_);
    stats_.finish_reason = reason;
}

GenerationStats Generation::stats() const {
    std::lock_guard stats_lock(stats_mutex_);
    return stats_;
}

}  // namespace gptoss

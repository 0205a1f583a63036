#include "session/generation.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "base/error.h"

namespace gptoss {
namespace {

// A stream of no given length is promised memory for so many tokens at a time.
constexpr int kInstalment = 1024;

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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
      counted_(needs_counts(options.sampling)),
      stop_ids_(options.stop_ids.begin(), options.stop_ids.end()),
      most_tokens_(most_tokens(options, room)),
      bounded_(options.max_new_tokens.has_value()),
      number_(number),
      priority_(options.priority),
      timeout_s_(options.timeout_s) {
    if (options.lookup && !counted_) draft_ = std::make_unique<PromptLookup>();
    for (const auto& [token, bias] : sampling_.logit_bias)
        bias_.push_back({static_cast<int>(token), bias});
    stats_.seed = parameters_.seed;
    generated_from_ = options.generated_from;
}

Generation::~Generation() { release(); }

void Generation::cancel() {
    if (session_->engine_->left_home()) return;
    cancelled_ = true;
    release();
    // Within a call of next() that one sees to it.
    if (session_->mutex_.mine()) return;
    const auto lock = session_->mutex_.try_lock();
    if (lock && stats_.finish_reason == FinishReason::kNone) finish(FinishReason::kCancelled);
}

void Generation::take_back() {
    if (session_->mutex_.mine()) return;
    const auto lock = session_->mutex_.try_lock();
    if (lock) drop_last();
}

void Generation::drop_last() {
    if (number_ != session_->generation_ || stats_.generated_tokens == 0) return;
    session_->set_size(session_->tokens_.size() - 1);
    {
        std::lock_guard stats_lock(stats_mutex_);
        --stats_.generated_tokens;
    }
    if (session_->stream_) keep_state();
}

void Generation::stop() {
    const auto lock = session_->enter();
    if (stats_.finish_reason == FinishReason::kNone) finish(FinishReason::kStop);
}

// Others may go on, at once.
void Generation::release() {
    if (session_->engine_->left_home()) return;
    std::lock_guard stats_lock(stats_mutex_);
    if (reservation_) session_->engine_->admission().release(*reservation_);
}

bool Generation::asked_to_end() const { return cancelled_ || (end_ && Clock::now() >= *end_); }

int Generation::growth() const {
    const int left = most_tokens_ - stats_.generated_tokens;
    return bounded_ ? left : std::min(left, kInstalment);
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
    if (timeout_s_ && !end_)
        end_ = start + std::chrono::duration_cast<Clock::duration>(
                           std::chrono::duration<double>(*timeout_s_));
    if (asked_to_end() || (known_.empty() && !advance(interrupt, constraint))) {
        finish(cancelled_ ? FinishReason::kCancelled : FinishReason::kTimeout);
        return std::nullopt;
    }
    Choice choice = std::move(known_.front());
    known_.pop_front();
    // Python's lock for each token of each stream would be more than all the rest.
    const bool told = !constraint || choice.failure || !holds_after(choice.chosen.token);
    if (constraint && told) accept(*constraint, choice);
    // A draft that came true has its keys and values already.
    session_->computed_ = static_cast<int>(session_->tokens_.size());
    GeneratedToken token = {choice.chosen.token, choice.chosen.logprob,
                            std::move(choice.top_logprobs), told};
    if (!generated_from_) generated_from_ = static_cast<int>(session_->tokens_.size());
    session_->append(token.id, Form::kDecode);
    if (counted_) count(token.id, true);
    {
        std::lock_guard stats_lock(stats_mutex_);
        ++stats_.generated_tokens;
        (first ? stats_.ttft_s : stats_.decode_s) += seconds_since(start);
    }
    keep_state();
    if (std::find(stop_ids_.begin(), stop_ids_.end(), token.id) != stop_ids_.end())
        finish(FinishReason::kStop);
    else if (stats_.generated_tokens == most_tokens_)
        finish(FinishReason::kLength);
    return token;
}

bool Generation::advance(const Interrupt& interrupt, const Constraint* constraint) {
    if (stats_.generated_tokens == 0) {
        if (counted_) {
            seen_.clear();
            seen_index_.clear();
            const auto& tokens = session_->tokens_;
            for (size_t i = 0; i < tokens.size(); ++i)
                count(tokens[i], generated_from_ && i >= size_t(*generated_from_));
            for (int token : prompt_) count(token, false);
        }
        // Nothing new: the last position is computed again, to the same bits, for its logits.
        const int total = static_cast<int>(session_->tokens_.size());
        if (prompt_.empty() && session_->computed_ == total) --session_->computed_;
    }
    const std::vector<int> prompt = std::exchange(prompt_, {}), drafts = propose(constraint);
    SampleRequest request = {parameters_,
                             bias_,
                             seen_,
                             session_->tokens_.size() + prompt.size(),
                             static_cast<int>(sampling_.logprobs),
                             constraint && !fixed_mask_ ? &constraint->fill_mask : nullptr,
                             fixed_mask_};
    std::vector<FillMask> draft_masks;
    if (request.fill_mask)
        for (size_t i = 1; i <= drafts.size(); ++i)
            draft_masks.push_back([&, i](std::span<uint32_t> mask) {
                constraint->fill_mask_after({drafts.data(), i}, mask);
            });
    std::vector<Choice> choices;
    Session::Wanted wanted;
    wanted.request = &request;
    wanted.choices = &choices;
    wanted.drafts = drafts;
    wanted.draft_masks = draft_masks;
    // Not where a guess may stand in for the next token's row, or its mask is not known.
    wanted.more =
        stats_.generated_tokens + 1 < most_tokens_ && guess_.empty() && !request.fill_mask;
    wanted.begins = stats_.generated_tokens == 0;
    wanted.priority = priority_;
    wanted.growth = growth();
    bool whole = false;
    try {
        whole = session_->compute(prompt, wanted, interrupt, [this] { return asked_to_end(); });
    } catch (...) {
        // What was computed stays; this stream cannot know where it would go on.
        finish(FinishReason::kCancelled);
        throw;
    }
    begun_ahead_ = wanted.more && session_->asynchronous_;
    known_.assign(std::make_move_iterator(choices.begin()), std::make_move_iterator(choices.end()));
    account(drafts, whole);
    if (wanted.begins) {
        // Chains of thought are dropped later, back to here.
        if (whole) session_->snapshot();
        if (session_->reservation_)
            session_->engine_->admission().set_streaming(*session_->reservation_);
        std::lock_guard stats_lock(stats_mutex_);
        reservation_ = session_->reservation_;
        stats_.cached_tokens = session_->usage_.cached_tokens;
        stats_.prefilled_tokens = session_->usage_.prefilled_tokens;
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

bool Generation::tell(const Constraint& constraint, int token, bool may_wait) {
    const auto lock = may_wait ? session_->enter() : session_->mutex_.try_lock();
    if (!lock) return false;
    try {
        session_->call_back([&] { constraint.accept(token); });
    } catch (...) {
        drop_last();
        finish(FinishReason::kCancelled);
        throw;
    }
    return true;
}

// Whether the mask that let the token through is that of the next one, too.
bool Generation::holds_after(int token) const {
    return fixed_mask_ && fixed_mask_->stays_after(token);
}

void Generation::count(int token, bool generated) {
    const auto [place, added] = seen_index_.try_emplace(token, seen_.size());
    if (added) seen_.push_back({token, 0});
    if (generated) ++seen_[place->second].generated;
}

void Generation::finish(FinishReason reason) {
    {
        std::lock_guard stats_lock(stats_mutex_);
        stats_.finish_reason = reason;
    }
    // One that a newer call has superseded has none of its own any more.
    if (number_ != session_->generation_) return;
    session_->give_up_reservation();
    if (reason == FinishReason::kStop || reason == FinishReason::kLength) session_->stream_.reset();
}

// For the session to go on with, should nobody read on here.
void Generation::keep_state() {
    if (!session_->stream_) {
        session_->stream_ = {sampling_, {}, *generated_from_, -1};
        session_->stream_->sampling.seed = parameters_.seed;
        session_->stream_->stop_ids.assign(stop_ids_.begin(), stop_ids_.end());
    }
    if (bounded_) session_->stream_->left = most_tokens_ - stats_.generated_tokens;
}

GenerationStats Generation::stats() const {
    std::lock_guard stats_lock(stats_mutex_);
    return stats_;
}

}  // namespace gptoss

// Which tokens a stream computes beside the next one: guessed from the text, or known to a
// constraint.
#include <algorithm>

#include "base/error.h"
#include "session/generation.h"

namespace gptoss {

// Guesses under a mask that is the same for all of them, or as many as the constraint lets through.
void Generation::look_ahead(const Constraint& constraint, int room) {
    if (!constraint.ahead) return guess_.clear();
    Ahead ahead;
    try {
        // What it said before holds on.
        if (holds_after(session_->tokens_.back()))
            ahead.mask = fixed_mask_;
        else
            session_->call_back([&] { ahead = constraint.ahead(guess_); });
        // Closed meanwhile, by the constraint or another thread, the session has no cache any more.
        session_->check_open();
        check(ahead);
    } catch (...) {
        finish(FinishReason::kCancelled);
        throw;
    }
    if (ahead.mask) {
        const auto other = [&](int token) { return !ahead.mask->stays_after(token); };
        guess_.erase(std::find_if(guess_.begin(), guess_.end(), other), guess_.end());
        fixed_mask_ = std::move(ahead.mask);
        return;
    }
    fixed_mask_ = nullptr;
    const int most = counted_ ? 0 : std::max(0, room);
    guess_ = std::move(ahead.ids);
    guess_.resize(std::min<size_t>(guess_.size(), most));
    forced_ = std::min(ahead.forced, static_cast<int>(guess_.size()));
}

void Generation::check(const Ahead& ahead) const {
    const int vocab = session_->vocab_size_;
    if (ahead.mask && ahead.mask != fixed_mask_) {
        std::vector<uint32_t> words(mask_words(vocab));
        if (!copy_mask(*ahead.mask, words, vocab))
            throw InvalidArgument(message("the constraint's FixedMask has ",
                                          ahead.mask->allowed.size(),
                                          " words, wanted one that allows a token of the ", vocab,
                                          ", in at most ", words.size()));
    }
    for (int token : ahead.ids)
        if (token < 0 || token >= vocab)
            throw InvalidArgument(message("the constraint's ahead() names token ", token,
                                          ", wanted 0 to ", vocab - 1));
}

std::vector<int> Generation::propose(const Constraint* constraint) {
    guess_.clear();
    forced_ = 0;
    const int room = std::min({most_tokens_ - stats_.generated_tokens - 1, DraftLength::kMost,
                               session_->decode_rows_ - 1});
    if (stats_.generated_tokens == 0) return {};
    if (draft_ && room > 0) guess_ = draft_->propose(session_->tokens_, room);
    if (constraint) look_ahead(*constraint, room);
    // The step that was begun is not this one if it has tokens that must come.
    if (guess_.empty() || (begun_ahead_ && forced_ == 0)) return {};
    const Engine& engine = *session_->engine_;
    const int count = draft_length_.best(static_cast<int>(guess_.size()), forced_,
                                         engine.rows_beside(session_.get()),
                                         [&](int rows) { return engine.decode_cost(rows); });
    return {guess_.begin(), guess_.begin() + count};
}

// What a step that is whole has shown of its drafts.
void Generation::account(const std::vector<int>& drafts, bool whole) {
    if (!whole) return;
    const size_t right = known_.size() - 1, forced = forced_;
    if (!guess_.empty() && drafts.empty() && forced == 0)
        draft_length_.saw(guess_[0] == known_[0].chosen.token);
    for (size_t i = forced; i < drafts.size() && i <= right; ++i) draft_length_.saw(i < right);
    std::lock_guard stats_lock(stats_mutex_);
    stats_.drafted_tokens += static_cast<int>(drafts.size());
    stats_.accepted_tokens += static_cast<int>(right);
    stats_.forced_tokens += static_cast<int>(std::min(right, forced));
}

}  // namespace gptoss

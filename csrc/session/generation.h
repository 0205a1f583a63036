// One stream of generated tokens.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "session/draft.h"
#include "session/session.h"

namespace gptoss {

struct GeneratedToken {
    int id = 0;
    float logprob = 0;                     // natural, under the model's own distribution
    std::vector<TopLogprob> top_logprobs;  // most likely first
    // False: the constraint, which is sure to take it, is still to be told, by Generation::tell().
    bool told = true;
};

enum class FinishReason { kNone, kStop, kLength, kCancelled, kTimeout };

struct GenerationStats {
    int cached_tokens = 0;     // of the context that were in the cache already
    int prefilled_tokens = 0;  // computed before the first token
    int generated_tokens = 0;
    int drafted_tokens = 0;   // guessed and computed beside others
    int accepted_tokens = 0;  // of those, the ones that came true
    int forced_tokens = 0;    // of those, the ones that nothing else could have stood for
    double ttft_s = 0;        // from the first next() to the first token
    double decode_s = 0;      // spent on the tokens after the first
    FinishReason finish_reason = FinishReason::kNone;
    uint64_t seed = 0;
};

// What a constraint knows of the tokens that come next.
struct Ahead {
    std::shared_ptr<const FixedMask> mask;  // of the next token and those after it, as it says
    // Without it: tokens that may come, each after those before it, and how many of them must.
    std::vector<int> ids;
    int forced = 0;
};

// Decides which tokens a stream may go on with. fill_mask is called before each token, on whichever
// thread computes the step and under the engine's lock, and again for the same token where a step
// is computed again; accept once for each token, in order, on the thread that asked for it, or by
// Generation::tell(). What either throws ends the stream.
struct Constraint {
    FillMask fill_mask;
    std::function<void(int token)> accept;
    // May be null, together: then no token is guessed. Asked before a step on the thread that wants
    // its token, with what might be tried; and, as fill_mask, for the mask after tokens that are
    // not accepted yet.
    std::function<Ahead(std::span<const int> guess)> ahead = nullptr;
    std::function<void(std::span<const int> ids, std::span<uint32_t> mask)> fill_mask_after =
        nullptr;
};

class Generation {
  public:
    // Made by Session::generate.
    Generation(std::shared_ptr<Session> session, std::vector<int> prompt, GenerateOptions options,
               int room, uint64_t number);
    ~Generation();

    // The next token, which the session then holds too; none when finished. The constraint, which
    // may be null, is to be the same each time.
    std::optional<GeneratedToken> next(const Interrupt& interrupt, const Constraint* constraint);
    // Tells the constraint of the token that next() gave last and left untold, for who has Python's
    // lock anyway. Throws what it throws, which ends the stream before that token. False, and not
    // told, if another thread has the session: then to be called where it may wait.
    bool tell(const Constraint& constraint, int token, bool may_wait);
    // Ends the stream before its next step; from any thread.
    void cancel();
    // Ends it after the token given last, as a stop id does.
    void stop();
    // Takes back the token given last, which never reached whoever asked for it; not where the
    // session has been used since.
    void take_back();
    GenerationStats stats() const;

  private:
    using Clock = std::chrono::steady_clock;

    // What comes next, without those that are known already. False if the stream is to end.
    bool advance(const Interrupt& interrupt, const Constraint* constraint);
    void accept(const Constraint& constraint, const Choice& choice);
    bool holds_after(int token) const;
    void drop_last();
    // Tokens to compute beside the next one's.
    std::vector<int> propose(const Constraint* constraint);
    void look_ahead(const Constraint& constraint, int room);
    void check(const Ahead& ahead) const;
    void account(const std::vector<int>& drafts, bool whole);
    bool asked_to_end() const;
    int growth() const;
    void release();
    void count(int token, bool generated);
    void finish(FinishReason reason);
    void keep_state();

    const std::shared_ptr<Session> session_;
    std::vector<int> prompt_;
    const Sampling sampling_;
    const SamplingParameters parameters_;
    const bool counted_;  // penalties need counts of the tokens, which differ from row to row
    std::vector<int> stop_ids_;
    std::vector<TokenBias> bias_;
    const int most_tokens_;
    const bool bounded_;  // max_new_tokens was given
    const uint64_t number_;
    const int priority_;
    const std::optional<double> timeout_s_;
    std::atomic<bool> cancelled_{false};

    // Under the session's mutex.
    std::vector<TokenCount> seen_;  // where they are counted
    std::unordered_map<int, size_t> seen_index_;
    std::optional<int> generated_from_;     // position of the stream's first token
    std::optional<Clock::time_point> end_;  // of the time given
    std::deque<Choice> known_;              // chosen and not given yet
    std::unique_ptr<Draft> draft_;          // null: none
    DraftLength draft_length_;
    std::vector<int> guess_;  // the latest proposal, whether it was computed or not
    int forced_ = 0;          // of those, the first ones that must come
    std::shared_ptr<const FixedMask> fixed_mask_;  // of the next token
    bool begun_ahead_ = false;                     // the device has begun the next step, of one row
    // Written under the session's mutex, read without waiting for a step.
    mutable std::mutex stats_mutex_;
    GenerationStats stats_;
    std::shared_ptr<Reservation> reservation_;
};

}  // namespace gptoss

// One stream of generated tokens.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "session/session.h"

namespace gptoss {

struct GeneratedToken {
    int id = 0;
    float logprob = 0;                     // natural, under the model's own distribution
    std::vector<TopLogprob> top_logprobs;  // most likely first
};

enum class FinishReason { kNone, kStop, kLength, kCancelled };

struct GenerationStats {
    int cached_tokens = 0;     // of the context that were in the cache already
    int prefilled_tokens = 0;  // computed before the first token
    int generated_tokens = 0;
    double ttft_s = 0;    // from the first next() to the first token
    double decode_s = 0;  // spent on the tokens after the first
    FinishReason finish_reason = FinishReason::kNone;
    uint64_t seed = 0;
};

// Decides which tokens a stream may go on with. fill_mask is called before each token, on whichever
// thread computes the step and under the engine's lock, and again for the same token where a step
// is computed again; accept once for each token, in order, on the thread that asked for it. What
// either throws ends the stream.
struct Constraint {
    FillMask fill_mask;
    std::function<void(int token)> accept;
};

class Generation {
  public:
    // Made by Session::generate.
    Generation(std::shared_ptr<Session> session, std::vector<int> prompt, GenerateOptions options,
               int room, uint64_t number);

    // The next token, which the session then holds too; none when finished. The constraint, which
    // may be null, is to be the same each time.
    std::optional<GeneratedToken> next(const Interrupt& interrupt, const Constraint* constraint);
    // Ends the stream before its next step; from any thread.
    void cancel() { cancelled_ = true; }
    GenerationStats stats() const;

  private:
    bool advance(const Interrupt& interrupt, const FillMask* fill_mask, Choice& choice);
    void accept(const Constraint& constraint, const Choice& choice);
    void count(int token, bool generated);
    void finish(FinishReason reason);

    const std::shared_ptr<Session> session_;
    std::vector<int> prompt_;
    const Sampling sampling_;
    const SamplingParameters parameters_;
    std::vector<int> stop_ids_;
    std::vector<TokenBias> bias_;
    const int most_tokens_;
    const uint64_t number_;
    std::atomic<bool> cancelled_{false};

    // Under the session's mutex.
    std::vector<TokenCount> seen_;  // kept only when a penalty needs it
    std::unordered_map<int, size_t> seen_index_;
    // Written under the session's mutex, read without waiting for a step.
    mutable std::mutex stats_mutex_;
    GenerationStats stats_;
};

}  // namespace gptoss

// The sample stage: one choice from one row of logits. Bound by a few passes over the vocabulary.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/random.h"

namespace gptoss::cpu {
namespace {

struct Candidate {
    int token;
    float logit;
    double weight;  // exp((logit - max) / temperature)
};

bool likelier(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

void find_top(const SampleArgs& a, double log_total) {
    std::vector<Candidate> best;
    for (int token = 0; token < a.vocab && a.top_logprobs > 0; ++token) {
        const Candidate c = {token, a.logits[token], 0};
        const bool full = static_cast<int>(best.size()) == a.top_logprobs;
        if (full && !likelier(c, best.back())) continue;
        if (full) best.pop_back();
        best.insert(std::upper_bound(best.begin(), best.end(), c, likelier), c);
    }
    for (size_t i = 0; i < best.size(); ++i)
        a.top_logprob[i] = {best[i].token, static_cast<float>(best[i].logit - log_total)};
}

// Applies bias and penalties; returns what stood there before.
std::vector<TokenBias> adjust(const SampleArgs& a) {
    std::vector<TokenBias> before;
    const auto change = [&](int token, float logit) {
        before.push_back({token, a.logits[token]});
        a.logits[token] = logit;
    };
    for (int i = 0; i < a.biases; ++i)
        change(a.bias[i].token, a.logits[a.bias[i].token] + a.bias[i].bias);
    const SamplingParameters& p = a.parameters;
    const auto repetition = static_cast<float>(p.repetition_penalty);
    for (int i = 0; i < a.seen_tokens; ++i) {
        const TokenCount& seen = a.seen[i];
        float logit = a.logits[seen.token];
        if (repetition != 1.0f) logit = logit > 0 ? logit / repetition : logit * repetition;
        if (seen.generated > 0)
            logit -= static_cast<float>(p.presence_penalty + p.frequency_penalty * seen.generated);
        change(seen.token, logit);
    }
    return before;
}

int most_likely(const float* logits, int vocab, float max) {
    return static_cast<int>(std::find(logits, logits + vocab, max) - logits);
}

// Keeps the smallest set of most likely candidates that holds top_p of all weight, likeliest first.
void keep_top_p(std::vector<Candidate>& candidates, double top_p) {
    double all = 0;
    for (const Candidate& c : candidates) all += c.weight;
    double held = 0;
    size_t sorted = 0;
    for (size_t i = 0; i < candidates.size(); ++i) {
        if (i == sorted) {
            // Usually a few hundred are enough; sorting 201,088 is what costs.
            sorted = std::min(candidates.size(), std::max<size_t>(256, 4 * sorted));
            std::partial_sort(candidates.begin() + i, candidates.begin() + sorted, candidates.end(),
                              likelier);
        }
        held += candidates[i].weight;
        if (held >= top_p * all) {
            candidates.resize(i + 1);
            return;
        }
    }
}

std::vector<Candidate> find_candidates(const SampleArgs& a, float max) {
    const SamplingParameters& p = a.parameters;
    // Below e**-50 of the best, all tokens together stay under the generator's grid of 2**-53.
    constexpr double kNegligible = -50;
    std::vector<Candidate> candidates;
    for (int token = 0; token < a.vocab; ++token)
        if ((double{a.logits[token]} - max) / p.temperature >= kNegligible)
            candidates.push_back({token, a.logits[token], 0});
    if (p.top_k > 0) {
        const size_t kept = std::min<size_t>(p.top_k, candidates.size());
        std::partial_sort(candidates.begin(), candidates.begin() + kept, candidates.end(),
                          likelier);
        candidates.resize(kept);
    }
    for (Candidate& c : candidates) c.weight = std::exp((double{c.logit} - max) / p.temperature);
    if (p.top_p < 1) keep_top_p(candidates, p.top_p);
    std::erase_if(candidates, [&](const Candidate& c) { return c.weight < p.min_p; });
    return candidates;
}

int draw(const std::vector<Candidate>& candidates, double unit) {
    double all = 0;
    for (const Candidate& c : candidates) all += c.weight;
    double rest = unit * all;
    for (const Candidate& c : candidates) {
        rest -= c.weight;
        if (rest < 0) return c.token;
    }
    return candidates.back().token;
}

}  // namespace

void CpuBackend::sample(const SampleArgs& a) {
    const float raw_max = kernels_.max(a.logits, a.vocab);
    const double log_total = raw_max + std::log(kernels_.sum_exp(a.logits, a.vocab, raw_max));
    if (!std::isfinite(log_total))
        throw Error("the model gave logits that are not finite; are its weights damaged?");
    find_top(a, log_total);
    const std::vector<TokenBias> before = adjust(a);
    const float max = before.empty() ? raw_max : kernels_.max(a.logits, a.vocab);
    int token;
    if (a.parameters.temperature == 0) {
        token = most_likely(a.logits, a.vocab, max);
    } else {
        token = draw(find_candidates(a, max), random_unit(a.parameters.seed, a.position));
    }
    float raw = a.logits[token];
    // The first change holds the model's own value.
    for (size_t i = before.size(); i-- > 0;)
        if (before[i].token == token) raw = before[i].bias;
    *a.chosen = {token, static_cast<float>(raw - log_total)};
}

}  // namespace gptoss::cpu

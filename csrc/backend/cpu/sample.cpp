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
    double logit;
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

// The logits after bias and penalties, in float64: a large bias must not make ties.
std::vector<double> adjusted(const SampleArgs& a) {
    std::vector<double> logits(a.logits, a.logits + a.vocab);
    for (int i = 0; i < a.biases; ++i) logits[a.bias[i].token] += a.bias[i].bias;
    const SamplingParameters& p = a.parameters;
    for (int i = 0; i < a.seen_tokens; ++i) {
        const TokenCount& seen = a.seen[i];
        double& logit = logits[seen.token];
        logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
        if (seen.generated > 0) logit -= p.presence_penalty + p.frequency_penalty * seen.generated;
    }
    return logits;
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

std::vector<Candidate> find_candidates(const std::vector<double>& logits,
                                       const SamplingParameters& p) {
    const double max = *std::max_element(logits.begin(), logits.end());
    // Below e**-50 of the best, all tokens together stay under the generator's grid of 2**-53.
    constexpr double kNegligible = -50;
    std::vector<Candidate> candidates;
    for (size_t token = 0; token < logits.size(); ++token)
        if ((logits[token] - max) / p.temperature >= kNegligible)
            candidates.push_back({static_cast<int>(token), logits[token], 0});
    if (p.top_k > 0) {
        const size_t kept = std::min<size_t>(p.top_k, candidates.size());
        std::partial_sort(candidates.begin(), candidates.begin() + kept, candidates.end(),
                          likelier);
        candidates.resize(kept);
    }
    for (Candidate& c : candidates) c.weight = std::exp((c.logit - max) / p.temperature);
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
    int token;
    if (a.parameters.temperature > 0) {
        token = draw(find_candidates(adjusted(a), a.parameters),
                     random_unit(a.parameters.seed, a.position));
    } else if (a.biases || a.seen_tokens) {
        const std::vector<double> logits = adjusted(a);
        token = static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    } else {
        token = static_cast<int>(std::find(a.logits, a.logits + a.vocab, raw_max) - a.logits);
    }
    *a.chosen = {token, static_cast<float>(a.logits[token] - log_total)};
}

}  // namespace gptoss::cpu

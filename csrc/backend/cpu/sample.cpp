// The sample stage: a choice for each row of logits, a row a thread. Bound by a few passes over the
// vocabulary.
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

// One row of a step's choices.
struct Choosing {
    const float* logits;  // [vocab]
    int vocab;
    const SampleRow& row;
};

void find_top(const Choosing& c, double log_total, TopLogprob* out) {
    std::vector<Candidate> best;
    for (int token = 0; token < c.vocab && c.row.top_logprobs > 0; ++token) {
        const Candidate candidate = {token, c.logits[token], 0};
        const bool full = static_cast<int>(best.size()) == c.row.top_logprobs;
        if (full && !likelier(candidate, best.back())) continue;
        if (full) best.pop_back();
        best.insert(std::upper_bound(best.begin(), best.end(), candidate, likelier), candidate);
    }
    for (size_t i = 0; i < best.size(); ++i)
        out[i] = {best[i].token, static_cast<float>(best[i].logit - log_total)};
}

// The logits after bias and penalties, in float64: a large bias must not make ties.
std::vector<double> adjusted(const Choosing& c) {
    std::vector<double> logits(c.logits, c.logits + c.vocab);
    for (int i = 0; i < c.row.biases; ++i) logits[c.row.bias[i].token] += c.row.bias[i].bias;
    const SamplingParameters& p = c.row.parameters;
    for (int i = 0; i < c.row.seen_tokens; ++i) {
        const TokenCount& seen = c.row.seen[i];
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
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
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

// Token -1 if the logits are not finite.
TopLogprob choose(const Kernels& kernels, const Choosing& c, TopLogprob* top) {
    const float raw_max = kernels.max(c.logits, c.vocab);
    const double log_total = raw_max + std::log(kernels.sum_exp(c.logits, c.vocab, raw_max));
    if (!std::isfinite(log_total)) return {-1, 0};
    find_top(c, log_total, top);
    int token;
    if (c.row.parameters.temperature > 0) {
        token = draw(find_candidates(adjusted(c), c.row.parameters),
                     random_unit(c.row.parameters.seed, c.row.position));
    } else if (c.row.biases || c.row.seen_tokens) {
        const std::vector<double> logits = adjusted(c);
        token = static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    } else {
        token = static_cast<int>(std::find(c.logits, c.logits + c.vocab, raw_max) - c.logits);
    }
    return {token, static_cast<float>(c.logits[token] - log_total)};
}

}  // namespace

void CpuBackend::sample(const SampleArgs& a) {
    pool_.run(a.outputs, [&](int64_t i, int) {
        const Choosing c = {a.logits + size_t(i) * a.vocab, a.vocab, a.row[i]};
        a.chosen[i] = choose(kernels_, c, a.top_logprob + size_t(i) * kMostTopLogprobs);
    });
}

}  // namespace gptoss::cpu

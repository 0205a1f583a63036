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

// Keeps the smallest set of most likely candidates whose weights reach `wanted`, likeliest first.
void keep_top_p(std::vector<Candidate>& candidates, double wanted) {
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
        if (held >= wanted) {
            candidates.resize(i + 1);
            return;
        }
    }
}

// Below e**-50 of the best, all tokens together stay under the generator's grid of 2**-53.
constexpr double kNegligible = -50;

// What is known before candidates are listed.
struct Cut {
    double least = -INFINITY;  // no token of a lower logit is left in the end
    double all = 0;            // the sum of all weights, those under `least` too; 0: not known
};

// Those that may be drawn, by rising id.
template <class Logit>
std::vector<Candidate> find_candidates(const Logit* logits, int vocab, const Cut& cut,
                                       const SamplingParameters& p) {
    const double max = *std::max_element(logits, logits + vocab);
    const double least = std::max(cut.least, max + kNegligible * p.temperature);
    std::vector<Candidate> candidates;
    for (int token = 0; token < vocab; ++token)
        if (logits[token] >= least) candidates.push_back({token, logits[token], 0});
    if (p.top_k > 0) {
        const size_t kept = std::min<size_t>(p.top_k, candidates.size());
        std::partial_sort(candidates.begin(), candidates.begin() + kept, candidates.end(),
                          likelier);
        candidates.resize(kept);
    }
    for (Candidate& c : candidates) c.weight = std::exp((c.logit - max) / p.temperature);
    if (p.top_p < 1) {
        double all = cut.all;
        for (size_t i = 0; cut.all == 0 && i < candidates.size(); ++i) all += candidates[i].weight;
        keep_top_p(candidates, p.top_p * all);
    }
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

// Finite, so that it leaves the likeliest token's zero distance zero.
float inverse(double temperature) { return static_cast<float>(std::min(1 / temperature, 1e30)); }

// A draw from all tokens, by the sums of pieces of the vocabulary: no pass in float64.
int draw_any(const Kernels& kernels, const Choosing& c, float max) {
    constexpr int kPiece = 1024;
    const SamplingParameters& p = c.row.parameters;
    const float scale = inverse(p.temperature);
    std::vector<double> sums;
    double all = 0;
    for (int first = 0; first < c.vocab; first += kPiece) {
        const int count = std::min(kPiece, c.vocab - first);
        all += sums.emplace_back(kernels.sum_exp(c.logits + first, count, max, scale));
    }
    double rest = random_unit(p.seed, c.row.position) * all;
    size_t piece = 0;
    while (piece + 1 < sums.size() && rest >= sums[piece]) rest -= sums[piece++];
    float weight[kPiece];
    const int first = static_cast<int>(piece) * kPiece, count = std::min(kPiece, c.vocab - first);
    kernels.exp_all(c.logits + first, count, max, scale, weight);
    // Where roundings leave a rest at the end: the last token there that can be drawn at all.
    int last = -1;
    for (int i = 0; i < count; ++i) {
        if (weight[i] > 0) last = first + i;
        rest -= weight[i];
        if (rest < 0) break;
    }
    if (last >= 0) return last;
    return static_cast<int>(std::find(c.logits, c.logits + c.vocab, max) - c.logits);
}

// What top_p and min_p will drop in any case: all tokens of less than an even share of what top_p
// leaves out hold less than that together. Where top_k comes first, top_p is a share of what that
// left, which is not known yet.
Cut find_cut(const Kernels& kernels, const Choosing& c, float max) {
    const SamplingParameters& p = c.row.parameters;
    if (p.top_k > 0 && p.top_p < 1) return {};
    Cut cut;
    double weight = p.min_p;
    if (p.top_p < 1) {
        cut.all = kernels.sum_exp(c.logits, c.vocab, max, inverse(p.temperature));
        weight = std::max(weight, (1 - p.top_p) * cut.all / c.vocab);
    }
    constexpr double kMargin = 0.999;  // for the rounding of float32 weights
    cut.least = max + p.temperature * std::log(kMargin * weight);
    return cut;
}

int draw_token(const Kernels& kernels, const Choosing& c, float max) {
    const SamplingParameters& p = c.row.parameters;
    const double unit = random_unit(p.seed, c.row.position);
    if (c.row.biases || c.row.seen_tokens) {
        const std::vector<double> logits = adjusted(c);
        return draw(find_candidates(logits.data(), c.vocab, {}, p), unit);
    }
    if (p.top_k == 0 && p.top_p == 1 && p.min_p == 0) return draw_any(kernels, c, max);
    return draw(find_candidates(c.logits, c.vocab, find_cut(kernels, c, max), p), unit);
}

// Token -1 if the logits are not finite.
TopLogprob choose(const Kernels& kernels, const Choosing& c, TopLogprob* top) {
    const float raw_max = kernels.max(c.logits, c.vocab);
    const double log_total = raw_max + std::log(kernels.sum_exp(c.logits, c.vocab, raw_max, 1));
    if (!std::isfinite(log_total)) return {-1, 0};
    find_top(c, log_total, top);
    int token;
    if (c.row.parameters.temperature > 0) {
        token = draw_token(kernels, c, raw_max);
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

// The sample stage: a choice for each row of logits, a row a thread. Bound by a few passes over the
// vocabulary.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/allowed_tokens.h"
#include "backend/cpu/cpu_backend.h"
#include "base/random.h"

namespace gptoss::cpu {
namespace {

struct Candidate {
    int token;  // or its rank among those allowed
    double logit;
    double weight;  // exp((logit - max) / temperature)
};

bool likelier(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// What one row chooses from: the tokens allowed, by their rank.
struct Choosing {
    const float* logits;  // [count]
    int count;
    const AllowedTokens& tokens;
    const SampleRow& row;
};

void find_top(const float* logits, int vocab, int wanted, double log_total, TopLogprob* out) {
    std::vector<Candidate> best;
    for (int token = 0; token < vocab && wanted > 0; ++token) {
        const Candidate candidate = {token, logits[token], 0};
        const bool full = static_cast<int>(best.size()) == wanted;
        if (full && !likelier(candidate, best.back())) continue;
        if (full) best.pop_back();
        best.insert(std::upper_bound(best.begin(), best.end(), candidate, likelier), candidate);
    }
    for (size_t i = 0; i < best.size(); ++i)
        out[i] = {best[i].token, static_cast<float>(best[i].logit - log_total)};
}

// The logits after bias and penalties, in float64: a large bias must not make ties.
std::vector<double> adjusted(const Choosing& c) {
    std::vector<double> logits(c.logits, c.logits + c.count);
    for (int i = 0; i < c.row.biases; ++i) {
        const int rank = c.tokens.rank(c.row.bias[i].token);
        if (rank >= 0) logits[rank] += c.row.bias[i].bias;
    }
    const SamplingParameters& p = c.row.parameters;
    for (int i = 0; i < c.row.seen_tokens; ++i) {
        const TokenCount& seen = c.row.seen[i];
        const int rank = c.tokens.rank(seen.token);
        if (rank < 0) continue;
        double& logit = logits[rank];
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

// The first of this logit.
int find(const Choosing& c, float logit) {
    return static_cast<int>(std::find(c.logits, c.logits + c.count, logit) - c.logits);
}

// A draw from all tokens, by the sums of pieces of the vocabulary: no pass in float64.
int draw_any(const Kernels& kernels, const Choosing& c, float max) {
    constexpr int kPiece = 1024;
    const SamplingParameters& p = c.row.parameters;
    const float scale = inverse(p.temperature);
    std::vector<double> sums;
    double all = 0;
    for (int first = 0; first < c.count; first += kPiece) {
        const int count = std::min(kPiece, c.count - first);
        all += sums.emplace_back(kernels.sum_exp(c.logits + first, count, max, scale));
    }
    double rest = random_unit(p.seed, c.row.position) * all;
    size_t piece = 0;
    while (piece + 1 < sums.size() && rest >= sums[piece]) rest -= sums[piece++];
    float weight[kPiece];
    const int first = static_cast<int>(piece) * kPiece, count = std::min(kPiece, c.count - first);
    kernels.exp_all(c.logits + first, count, max, scale, weight);
    // Where roundings leave a rest at the end: the last token there that can be drawn at all.
    int last = -1;
    for (int i = 0; i < count; ++i) {
        if (weight[i] > 0) last = first + i;
        rest -= weight[i];
        if (rest < 0) break;
    }
    if (last >= 0) return last;
    return find(c, max);
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
        cut.all = kernels.sum_exp(c.logits, c.count, max, inverse(p.temperature));
        weight = std::max(weight, (1 - p.top_p) * cut.all / c.count);
    }
    constexpr double kMargin = 0.999;  // for the rounding of float32 weights
    cut.least = max + p.temperature * std::log(kMargin * weight);
    return cut;
}

int draw_rank(const Kernels& kernels, const Choosing& c, float max) {
    const SamplingParameters& p = c.row.parameters;
    const double unit = random_unit(p.seed, c.row.position);
    if (c.row.biases || c.row.seen_tokens) {
        const std::vector<double> logits = adjusted(c);
        return draw(find_candidates(logits.data(), c.count, {}, p), unit);
    }
    if (p.top_k == 0 && p.top_p == 1 && p.min_p == 0) return draw_any(kernels, c, max);
    return draw(find_candidates(c.logits, c.count, find_cut(kernels, c, max), p), unit);
}

// Which of those allowed, `max` being the best of their logits.
int choose_rank(const Kernels& kernels, const Choosing& c, float max) {
    if (c.row.parameters.temperature > 0) return draw_rank(kernels, c, max);
    if (c.row.biases == 0 && c.row.seen_tokens == 0) return find(c, max);
    const std::vector<double> logits = adjusted(c);
    return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Token -1 if the logits are not finite, or none is allowed.
TopLogprob choose(const Kernels& kernels, const float* logits, int vocab, const SampleRow& row,
                  TopLogprob* top) {
    const float raw_max = kernels.max(logits, vocab);
    const double log_total = raw_max + std::log(kernels.sum_exp(logits, vocab, raw_max, 1));
    if (!std::isfinite(log_total)) return {-1, 0};
    find_top(logits, vocab, row.top_logprobs, log_total, top);
    const AllowedTokens tokens(logits, vocab, row.mask);
    const Choosing c = {tokens.logits(), tokens.count(), tokens, row};
    if (c.count == 0) return {-1, 0};
    const float max = row.mask ? kernels.max(c.logits, c.count) : raw_max;
    const int token = tokens.token(choose_rank(kernels, c, max));
    return {token, static_cast<float>(logits[token] - log_total)};
}

}  // namespace

void CpuBackend::sample(const SampleArgs& a) {
    pool_.run(a.outputs, [&](int64_t i, int) {
        a.chosen[i] = choose(kernels_, a.logits + size_t(i) * a.vocab, a.vocab, a.row[i],
                             a.top_logprob + size_t(i) * kMostTopLogprobs);
    });
}

}  // namespace gptoss::cpu

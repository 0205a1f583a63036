#include "session/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"

namespace gptoss {
namespace {

void require(bool holds, const char* name, double value, const char* wanted) {
    if (!holds) throw InvalidArgument(message(name, " is ", value, ", wanted ", wanted));
}

bool finite_from(double value, double low) { return std::isfinite(value) && value >= low; }

uint64_t fresh_seed() {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
}

}  // namespace

void validate(const Sampling& s) {
    require(finite_from(s.temperature, 0), "temperature", s.temperature, "0 or more");
    require(s.top_k >= 0 && s.top_k <= std::numeric_limits<int>::max(), "top_k",
            static_cast<double>(s.top_k), "0 (all) or more");
    require(s.top_p > 0 && s.top_p <= 1, "top_p", s.top_p, "above 0 and at most 1");
    require(s.min_p >= 0 && s.min_p <= 1, "min_p", s.min_p, "0 to 1");
    require(s.repetition_penalty >= 1e-6 && s.repetition_penalty <= 1e6, "repetition_penalty",
            s.repetition_penalty, "1e-6 to 1e6");
    require(std::abs(s.presence_penalty) <= 1e6, "presence_penalty", s.presence_penalty,
            "-1e6 to 1e6");
    require(std::abs(s.frequency_penalty) <= 1e6, "frequency_penalty", s.frequency_penalty,
            "-1e6 to 1e6");
    require(s.logprobs >= 0 && s.logprobs <= kMostTopLogprobs, "logprobs",
            static_cast<double>(s.logprobs), "0 to 1024");
    for (const auto& [token, bias] : s.logit_bias)
        if (!(std::abs(bias) <= 1e6))
            throw InvalidArgument(
                message("logit_bias of token ", token, " is ", bias, ", wanted -1e6 to 1e6"));
}

void validate(const Sampling& s, int vocab_size) {
    validate(s);
    for (const auto& [token, bias] : s.logit_bias)
        if (token < 0 || token >= vocab_size)
            throw InvalidArgument(
                message("logit_bias names token ", token, ", wanted 0 to ", vocab_size - 1));
    if (s.logprobs > vocab_size)
        throw InvalidArgument(
            message("logprobs is ", s.logprobs, ", the vocabulary has only ", vocab_size));
}

SamplingParameters parameters(const Sampling& s) {
    SamplingParameters p;
    p.temperature = s.temperature;
    p.top_k = static_cast<int>(s.top_k);
    p.top_p = s.top_p;
    p.min_p = s.min_p;
    p.repetition_penalty = s.repetition_penalty;
    p.presence_penalty = s.presence_penalty;
    p.frequency_penalty = s.frequency_penalty;
    p.seed = s.seed ? *s.seed : fresh_seed();
    return p;
}

}  // namespace gptoss

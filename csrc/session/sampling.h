// What a caller may ask of sampling, checked by name.
#pragma once

#include <map>
#include <optional>

#include "backend/stages.h"

namespace gptoss {

struct Sampling {
    double temperature = 1.0;
    int64_t top_k = 0;
    double top_p = 1.0;
    double min_p = 0.0;
    double repetition_penalty = 1.0;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    std::map<int64_t, double> logit_bias;  // token -> what is added to its logit
    std::optional<uint64_t> seed;          // none: another one each time
    int64_t logprobs = 0;                  // most likely tokens reported beside each chosen one
};

// Throws InvalidArgument naming the first value out of range.
void validate(const Sampling& sampling);
// The part that needs the model.
void validate(const Sampling& sampling, int vocab_size);

SamplingParameters parameters(const Sampling& sampling);

}  // namespace gptoss

// Times one stage over a model's own weights.
#pragma once

#include <string>
#include <vector>

#include "model/model.h"

namespace gptoss {

struct StageTiming {
    double seconds;     // median of one call
    double bytes;       // of weights and cache that a call must read, on average
    double operations;  // multiplications and additions, on average
};

// The names time_stage knows: the stages of a layer, with attention over a window and over all
// keys apart, then logits and sample (of as many rows as a decode step takes).
std::vector<std::string> timed_stages();

// `tokens` rows of one sequence from position `context` on.
struct TimedCall {
    Form form;
    int tokens, context, calls;
};

// Times calls of a stage. Each takes another layer, so that weights come from memory and not from
// the last cache. Throws InvalidArgument.
StageTiming time_stage(Model& model, const std::string& stage, const TimedCall& call);

}  // namespace gptoss

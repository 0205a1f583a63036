// Rotary position embedding with YaRN (Peng et al., YaRN: Efficient Context Window Extension of
// Large Language Models, 2023), in the float32 steps of the published reference: far positions
// multiply the rounding of a frequency.
#pragma once

#include <vector>

#include "weights/config.h"

namespace gptoss {

// Radians a position, [head_dim / 2].
std::vector<float> rope_frequencies(const ModelConfig& config);

// YaRN's factor on cosine and sine: 0.1 ln(factor) + 1.
float rope_concentration(const ModelConfig& config);

}  // namespace gptoss

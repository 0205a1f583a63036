#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace gptoss {

std::vector<float> rope_frequencies(const ModelConfig& c) {
    const int half = c.head_dim / 2;
    // The dimension that turns `turns` times over the original context.
    const auto dimension = [&](double turns) {
        return c.head_dim * std::log(c.initial_context / (turns * 2 * std::numbers::pi)) /
               (2 * std::log(c.rope_theta));
    };
    double low = dimension(c.rope_beta_fast), high = dimension(c.rope_beta_slow);
    if (c.rope_truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, c.head_dim - 1.0);
    if (low == high) high += 0.001;
    std::vector<float> frequencies(half);
    for (int i = 0; i < half; ++i) {
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(c.head_dim);
        const auto period = static_cast<float>(std::pow(c.rope_theta, double{exponent}));
        const float original = 1.0f / period;
        const float stretched = 1.0f / (static_cast<float>(c.rope_factor) * period);
        const float ramp = std::clamp(
            (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low),
            0.0f, 1.0f);
        const float kept = 1.0f - ramp;
        frequencies[i] = stretched * (1.0f - kept) + original * kept;
    }
    return frequencies;
}

float rope_concentration(const ModelConfig& c) {
    return c.rope_factor > 1 ? static_cast<float>(0.1 * std::log(c.rope_factor) + 1) : 1.0f;
}

}  // namespace gptoss

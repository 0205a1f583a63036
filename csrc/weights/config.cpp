#include "weights/config.h"

#include <cmath>

#include "base/error.h"

namespace gptoss {
namespace {

void require(bool holds, const char* name, double value, const char* wanted) {
    if (!holds) throw InvalidArgument(message(name, " is ", value, ", wanted ", wanted));
}

void range(const char* name, int value, int low, int high) {
    if (value < low || value > high)
        throw InvalidArgument(message(name, " is ", value, ", wanted ", low, " to ", high));
}

}  // namespace

void validate(const ModelConfig& c) {
    range("vocab_size", c.vocab_size, 1, 1 << 24);
    range("hidden_size", c.hidden_size, 32, 1 << 16);
    range("intermediate_size", c.intermediate_size, 32, 1 << 16);
    require(c.hidden_size % 32 == 0, "hidden_size", c.hidden_size, "a multiple of 32");
    require(c.intermediate_size % 32 == 0, "intermediate_size", c.intermediate_size,
            "a multiple of 32");
    range("layers", c.layers, 1, 1024);
    range("experts", c.experts, 1, 128);
    range("experts_per_token", c.experts_per_token, 1, std::min(c.experts, 8));
    range("heads", c.heads, 1, 1024);
    range("kv_heads", c.kv_heads, 1, c.heads);
    require(c.heads % c.kv_heads == 0, "heads", c.heads, "a multiple of kv_heads");
    require(c.heads / c.kv_heads <= 16, "heads", c.heads, "at most 16 for each of kv_heads");
    require(c.head_dim == 32 || c.head_dim == 64, "head_dim", c.head_dim, "32 or 64");
    range("sliding_window", c.sliding_window, 1, 1 << 20);
    range("max_context", c.max_context, 1, 1 << 24);
    range("initial_context", c.initial_context, 1, 1 << 24);
    require(std::isfinite(c.rope_theta) && c.rope_theta > 1, "rope_theta", c.rope_theta,
            "a finite number above 1");
    require(std::isfinite(c.rope_factor) && c.rope_factor >= 1, "rope_factor", c.rope_factor,
            "a finite number of at least 1");
    require(std::isfinite(c.rope_beta_fast) && c.rope_beta_fast > 0, "rope_beta_fast",
            c.rope_beta_fast, "a finite number above 0");
    require(std::isfinite(c.rope_beta_slow) && c.rope_beta_slow > 0, "rope_beta_slow",
            c.rope_beta_slow, "a finite number above 0");
    require(c.rms_norm_eps > 0 && c.rms_norm_eps < 1, "rms_norm_eps", c.rms_norm_eps,
            "a number between 0 and 1");
    require(std::isfinite(c.swiglu_limit) && c.swiglu_limit > 0, "swiglu_limit", c.swiglu_limit,
            "a finite number above 0");
    require(static_cast<int>(c.windowed.size()) == c.layers, "windowed",
            static_cast<double>(c.windowed.size()), "one entry a layer");
}

}  // namespace gptoss

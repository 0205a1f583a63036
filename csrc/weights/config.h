// The sizes and constants of one gpt-oss model, as its config.json gives them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gptoss {

struct ModelConfig {
    int vocab_size = 0;
    int hidden_size = 0;
    int intermediate_size = 0;
    int layers = 0;
    int experts = 0;
    int experts_per_token = 0;
    int heads = 0;
    int kv_heads = 0;
    int head_dim = 0;
    int sliding_window = 0;   // keys a windowed layer sees, the query's own included
    int max_context = 0;      // positions the rope covers
    int initial_context = 0;  // positions before YaRN stretched them
    double rope_theta = 0;
    double rope_factor = 0;
    double rope_beta_fast = 0;
    double rope_beta_slow = 0;
    bool rope_truncate = false;  // round the YaRN ramp's ends to whole dimensions
    double rms_norm_eps = 0;
    double swiglu_limit = 0;
    std::vector<uint8_t> windowed;  // [layers] 1: sliding window, 0: full attention

    int qkv_rows() const { return (heads + 2 * kv_heads) * head_dim; }
    int query_rows() const { return heads * head_dim; }
};

// Throws InvalidArgument naming the first value outside what the kernels can compute.
void validate(const ModelConfig& config);

}  // namespace gptoss

// Random weights of a given shape, made as they are read: a model to time without a download.
#pragma once

#include <string>
#include <vector>

#include "weights/tensor_source.h"

namespace gptoss {

class RandomSource final : public TensorSource {
  public:
    // Normal weights of the variance 1 / fan-in, so that activations stay of order one; blocks
    // uniform. Each value depends on the seed, the tensor's name and its index alone.
    explicit RandomSource(uint64_t seed);

    void read(const TensorRange& range, bool keep_cached, std::byte* out) const override;
    std::string folder() const override { return "(random)"; }
    std::string file_name(const TensorSpec&) const override { return "(random)"; }

  private:
    struct Spread {
        double mean, deviation;
    };
    Spread spread(const TensorSpec& tensor) const;

    uint64_t seed_;
    std::vector<float> quantiles_;  // [4096] of the standard normal distribution
};

}  // namespace gptoss

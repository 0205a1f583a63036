// How much cache a sequence needs and where each layer's part of it lies.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "weights/config.h"

namespace gptoss {

// Full layers share pages: one page holds kPageTokens positions of all of them. Windowed layers
// share one ring, long enough that a step may write before its first row has read.
struct KvGeometry {
    static constexpr int kPageTokens = 128;

    KvGeometry(const ModelConfig& config, Precision precision, const BackendTraits& traits);

    std::vector<KvLayer> layers;
    size_t page_bytes = 0;
    size_t ring_bytes = 0;

    int pages(int positions) const { return (positions + kPageTokens - 1) / kPageTokens; }
    // Of one sequence of so many positions.
    size_t bytes(int positions) const { return ring_bytes + pages(positions) * page_bytes; }
};

}  // namespace gptoss

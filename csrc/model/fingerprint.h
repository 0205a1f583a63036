// What tells one placed model from another.
#pragma once

#include "backend/backend.h"
#include "weights/config.h"

namespace gptoss {

// Of the sizes and constants, how weights are kept, all vectors (norms, biases, sinks) and the
// first 4 KiB of every matrix. Models of other weights, another dense format, precision or kind of
// device differ in it; a change deep inside one matrix alone does not show.
uint64_t fingerprint(Backend& backend, const ModelConfig& config, const PlacedModel& weights);

// The same of a model that keeps keys and values so. Those that follow from the precision alone
// leave it as it is.
uint64_t with_kv(uint64_t fingerprint, DType kv);

}  // namespace gptoss

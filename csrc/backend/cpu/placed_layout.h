// How a model's weights lie in this backend's memory.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "base/memory.h"

namespace gptoss::cpu {

size_t panel_bytes(WeightFormat format, int columns);
size_t panel_scale_bytes(WeightFormat format, int columns);

// Takes room for every tensor of the model, in the order given there.
void carve_model(const ModelConfig& config, WeightFormat dense, Carver& carver, PlacedModel& model);

}  // namespace gptoss::cpu

// The order in which a model's weights lie in a backend's memory.
#pragma once

#include "backend/backend.h"
#include "base/memory.h"

namespace gptoss {

// Bytes of one matrix in the backend's own layout.
struct MatrixBytes {
    size_t data, scales;
};
using MatrixLayout = MatrixBytes (*)(WeightFormat format, int rows, int columns);

// Takes room for every tensor of the model, in the order given there.
void carve_model(const ModelConfig& config, WeightFormat dense, MatrixLayout layout, Carver& carver,
                 PlacedModel& model);

// The same without memory: sizes, and null pointers.
PlacedModel outline_model(const ModelConfig& config, WeightFormat dense, MatrixLayout layout);

// A published vector of float32 or bf16 as float32.
void copy_floats(const TensorSpec& tensor, const std::byte* data, float* out);

}  // namespace gptoss

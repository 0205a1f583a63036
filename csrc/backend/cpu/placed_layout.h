// Bytes of panels and of matrices in this backend's layout.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/placed_layout.h"

namespace gptoss::cpu {

size_t panel_bytes(WeightFormat format, int columns);
size_t panel_scale_bytes(WeightFormat format, int columns);

MatrixBytes matrix_bytes(WeightFormat format, int rows, int columns);

}  // namespace gptoss::cpu

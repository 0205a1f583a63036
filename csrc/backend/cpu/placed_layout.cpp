#include "backend/cpu/placed_layout.h"

#include "backend/cpu/cpu_backend.h"

namespace gptoss::cpu {

size_t panel_bytes(WeightFormat format, int columns) {
    switch (format) {
        case WeightFormat::kBf16: return bf16_panel_bytes(columns);
        case WeightFormat::kInt8: return int8_panel_bytes(columns);
        default: return mxfp4_panel_bytes(columns);
    }
}

size_t panel_scale_bytes(WeightFormat format, int columns) {
    switch (format) {
        case WeightFormat::kBf16: return 0;
        case WeightFormat::kInt8: return int8_scale_bytes(columns);
        default: return mxfp4_scale_bytes(columns);
    }
}

MatrixBytes matrix_bytes(WeightFormat format, int rows, int columns) {
    const size_t panels = panel_count(rows);
    return {panel_bytes(format, columns) * panels, panel_scale_bytes(format, columns) * panels};
}

PlacedModel CpuBackend::outline(const ModelConfig& config, WeightFormat dense) const {
    return outline_model(config, dense, matrix_bytes);
}

}  // namespace gptoss::cpu

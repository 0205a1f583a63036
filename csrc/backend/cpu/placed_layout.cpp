#include "backend/cpu/placed_layout.h"

#include "backend/cpu/cpu_backend.h"
#include "base/memory.h"

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

namespace {

Matrix carve_matrix(Carver& carver, WeightFormat format, int rows, int columns, int count = 1) {
    Matrix m;
    m.format = format;
    m.rows = rows;
    m.columns = columns;
    m.data_stride = panel_bytes(format, columns) * panel_count(rows);
    m.scale_stride = panel_scale_bytes(format, columns) * panel_count(rows);
    m.data = carver.take<std::byte>(m.data_stride * count);
    if (m.scale_stride) m.scales = carver.take<std::byte>(m.scale_stride * count);
    return m;
}

}  // namespace

void carve_model(const ModelConfig& c, WeightFormat dense, Carver& carver, PlacedModel& model) {
    const auto vector = [&](size_t n) -> const float* { return carver.take<float>(n); };
    model.embedding = carver.take<bf16>(size_t(c.vocab_size) * c.hidden_size);
    model.final_norm = vector(c.hidden_size);
    model.unembedding = carve_matrix(carver, dense, c.vocab_size, c.hidden_size);
    model.layers.resize(c.layers);
    for (PlacedLayer& layer : model.layers) {
        layer.attention_norm = vector(c.hidden_size);
        layer.qkv = carve_matrix(carver, dense, c.qkv_rows(), c.hidden_size);
        layer.qkv_bias = vector(c.qkv_rows());
        layer.sinks = vector(c.heads);
        layer.attn_out = carve_matrix(carver, dense, c.hidden_size, c.query_rows());
        layer.attn_out_bias = vector(c.hidden_size);
        layer.moe_norm = vector(c.hidden_size);
        layer.router = carve_matrix(carver, WeightFormat::kBf16, c.experts, c.hidden_size);
        layer.router_bias = vector(c.experts);
        layer.moe_up = carve_matrix(carver, WeightFormat::kMxfp4, 2 * c.intermediate_size,
                                    c.hidden_size, c.experts);
        layer.moe_up_bias = vector(size_t(c.experts) * 2 * c.intermediate_size);
        layer.moe_down = carve_matrix(carver, WeightFormat::kMxfp4, c.hidden_size,
                                      c.intermediate_size, c.experts);
        layer.moe_down_bias = vector(size_t(c.experts) * c.hidden_size);
    }
}

PlacedModel CpuBackend::outline(const ModelConfig& config, WeightFormat dense) const {
    PlacedModel model;
    Carver count;
    carve_model(config, dense, count, model);
    model.bytes = count.used();
    return model;
}

}  // namespace gptoss::cpu

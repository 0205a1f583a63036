#include "backend/placed_layout.h"

#include <cstring>

namespace gptoss {

void carve_model(const ModelConfig& c, WeightFormat dense, MatrixLayout layout, Carver& carver,
                 PlacedModel& model) {
    const auto vector = [&](size_t n) -> const float* { return carver.take<float>(n); };
    const auto matrix = [&](WeightFormat format, int rows, int columns, int count = 1) {
        const MatrixBytes bytes = layout(format, rows, columns);
        Matrix m;
        m.format = format;
        m.rows = rows;
        m.columns = columns;
        m.data_stride = bytes.data;
        m.scale_stride = bytes.scales;
        m.data = carver.take<std::byte>(m.data_stride * count);
        if (m.scale_stride) m.scales = carver.take<std::byte>(m.scale_stride * count);
        return m;
    };
    model.embedding = carver.take<bf16>(size_t(c.vocab_size) * c.hidden_size);
    model.final_norm = vector(c.hidden_size);
    model.unembedding = matrix(dense, c.vocab_size, c.hidden_size);
    model.layers.resize(c.layers);
    for (PlacedLayer& layer : model.layers) {
        layer.attention_norm = vector(c.hidden_size);
        layer.qkv = matrix(dense, c.qkv_rows(), c.hidden_size);
        layer.qkv_bias = vector(c.qkv_rows());
        layer.sinks = vector(c.heads);
        layer.attn_out = matrix(dense, c.hidden_size, c.query_rows());
        layer.attn_out_bias = vector(c.hidden_size);
        layer.moe_norm = vector(c.hidden_size);
        layer.router = matrix(WeightFormat::kBf16, c.experts, c.hidden_size);
        layer.router_bias = vector(c.experts);
        layer.moe_up =
            matrix(WeightFormat::kMxfp4, 2 * c.intermediate_size, c.hidden_size, c.experts);
        layer.moe_up_bias = vector(size_t(c.experts) * 2 * c.intermediate_size);
        layer.moe_down =
            matrix(WeightFormat::kMxfp4, c.hidden_size, c.intermediate_size, c.experts);
        layer.moe_down_bias = vector(size_t(c.experts) * c.hidden_size);
    }
}

PlacedModel outline_model(const ModelConfig& config, WeightFormat dense, MatrixLayout layout) {
    PlacedModel model;
    Carver count;
    carve_model(config, dense, layout, count, model);
    model.bytes = count.used();
    return model;
}

void copy_floats(const TensorSpec& tensor, const std::byte* data, float* out) {
    if (tensor.dtype == DType::kF32) {
        std::memcpy(out, data, tensor.bytes());
        return;
    }
    const auto* values = reinterpret_cast<const bf16*>(data);
    for (uint64_t i = 0; i < tensor.elements(); ++i) out[i] = to_float(values[i]);
}

}  // namespace gptoss

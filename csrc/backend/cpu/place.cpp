// Loading: published tensors to panels, a piece at a time over all threads. Only the piece at hand
// of the published form is in memory beside the placed model.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <mutex>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/pack.h"

namespace gptoss::cpu {
namespace {

constexpr int kDensePiecePanels = 64;
constexpr uint64_t kEmbeddingPiece = uint64_t{8} << 20;

int panels(int rows) { return (rows + kPanelRows - 1) / kPanelRows; }

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

Matrix carve_matrix(Carver& carver, WeightFormat format, int rows, int columns, int count = 1) {
    Matrix m;
    m.format = format;
    m.rows = rows;
    m.columns = columns;
    m.data_stride = panel_bytes(format, columns) * panels(rows);
    m.scale_stride = panel_scale_bytes(format, columns) * panels(rows);
    m.data = carver.take<std::byte>(m.data_stride * count);
    if (m.scale_stride) m.scales = carver.take<std::byte>(m.scale_stride * count);
    return m;
}

void carve(const ModelConfig& c, WeightFormat dense, Carver& carver, PlacedModel& model) {
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

// Which published row stands in lane `lane` of a moe_up panel: gates of 16 outputs in one panel,
// their ups in the next, so that SwiGLU works lane by lane.
int moe_up_row(int panel, int lane) { return 2 * (panel / 2 * kPanelRows + lane) + panel % 2; }

struct Job {
    uint64_t bytes;  // of published tensors
    std::function<void()> run;
};

class Loader {
  public:
    Loader(const ModelConfig& config, const TensorSource& source, PlacedModel& model)
        : config_(config), source_(source), model_(model) {}

    std::vector<Job> jobs;

    void vector(const TensorSpec& tensor, const float* out, int offset = 0) {
        jobs.push_back({tensor.bytes(), [this, tensor, out, offset] {
            read_floats(tensor, const_cast<float*>(out) + offset);
        }});
    }

    void stacked_vector(const RowStack& stack, const float* out) {
        int offset = 0;
        for (const TensorSpec& tensor : stack) {
            vector(tensor, out, offset);
            offset += static_cast<int>(tensor.elements());
        }
    }

    // Bias of gate and up in the order of the placed rows.
    void moe_up_bias(const TensorSpec& tensor, const float* out) {
        jobs.push_back({tensor.bytes(), [this, tensor, out] {
            std::vector<float> published(tensor.elements());
            read_floats(tensor, published.data());
            const int rows = 2 * config_.intermediate_size;
            for (size_t i = 0; i < published.size(); ++i) {
                const int panel = static_cast<int>(i) % rows / kPanelRows;
                const_cast<float*>(out)[i] = published[i / rows * rows + moe_up_row(panel, i % 16)];
            }
        }});
    }

    void embedding(const TensorSpec& tensor, const bf16* out) {
        for (uint64_t begin = 0; begin < tensor.bytes(); begin += kEmbeddingPiece) {
            const uint64_t size = std::min(kEmbeddingPiece, tensor.bytes() - begin);
            jobs.push_back({size, [this, tensor, out, begin, size] {
                source_.read(tensor, begin, size, [&](const std::byte* data) {
                    std::memcpy(reinterpret_cast<std::byte*>(const_cast<bf16*>(out)) + begin, data,
                                size);
                });
            }});
        }
    }

    // Stacked parts have multiples of 16 rows each but for the last, since head_dim is 32 or 64.
    void dense(const RowStack& stack, const Matrix& m) {
        int first_panel = 0;
        for (const TensorSpec& tensor : stack) {
            const int count = panels(static_cast<int>(tensor.shape[0]));
            for (int p = 0; p < count; p += kDensePiecePanels)
                dense_piece(tensor, m, first_panel, p, std::min(p + kDensePiecePanels, count));
            first_panel += count;
        }
    }

    void experts(const ExpertTensors& tensors, const Matrix& m, bool gate_up) {
        for (int e = 0; e < config_.experts; ++e) {
            const uint64_t block_bytes = tensors.blocks.bytes() / config_.experts;
            const uint64_t scale_bytes = tensors.scales.bytes() / config_.experts;
            jobs.push_back({block_bytes, [=, this] {
                source_.read(tensors.blocks, e * block_bytes, block_bytes,
                             [&](const std::byte* data) { blocks(m, e, data, gate_up); });
            }});
            jobs.push_back({scale_bytes, [=, this] {
                source_.read(tensors.scales, e * scale_bytes, scale_bytes,
                             [&](const std::byte* data) {
                                 scales(m, e, data, gate_up, tensors.scales);
                             });
            }});
        }
    }

  private:
    void read_floats(const TensorSpec& tensor, float* out) const {
        source_.read(tensor, 0, tensor.bytes(), [&](const std::byte* data) {
            if (tensor.dtype == DType::kF32) {
                std::memcpy(out, data, tensor.bytes());
                return;
            }
            const auto* values = reinterpret_cast<const bf16*>(data);
            for (uint64_t i = 0; i < tensor.elements(); ++i) out[i] = to_float(values[i]);
        });
    }

    void dense_piece(const TensorSpec& tensor, const Matrix& m, int first_panel, int begin,
                     int end) {
        const int rows = static_cast<int>(tensor.shape[0]), columns = m.columns;
        const uint64_t row_bytes = uint64_t(columns) * sizeof(bf16);
        const int first_row = begin * kPanelRows;
        const uint64_t size = (std::min(end * kPanelRows, rows) - first_row) * row_bytes;
        jobs.push_back({size, [=, this] {
            SquaredError squared;
            source_.read(tensor, first_row * row_bytes, size, [&](const std::byte* data) {
                for (int p = begin; p < end; ++p) {
                    PanelRows<bf16> lanes;
                    for (int lane = 0; lane < kPanelRows; ++lane) {
                        const int row = p * kPanelRows + lane;
                        lanes.row[lane] = row < rows ? reinterpret_cast<const bf16*>(data) +
                                                           size_t(row - first_row) * columns
                                                     : nullptr;
                    }
                    const size_t panel = first_panel + p;
                    auto* out = const_cast<std::byte*>(m.data) +
                                panel * panel_bytes(m.format, columns);
                    if (m.format == WeightFormat::kBf16) {
                        pack_bf16(lanes, columns, out);
                    } else {
                        pack_int8(lanes, columns, out,
                                  const_cast<std::byte*>(m.scales) +
                                      panel * panel_scale_bytes(m.format, columns),
                                  squared);
                    }
                }
            });
            if (m.format == WeightFormat::kInt8) add_error(tensor.name, squared);
        }});
    }

    template <class Use>
    static void expert_panels(const Matrix& m, const std::byte* data, size_t row_bytes,
                              bool gate_up, Use use) {
        for (int p = 0; p < panels(m.rows); ++p) {
            PanelRows<uint8_t> lanes;
            for (int lane = 0; lane < kPanelRows; ++lane) {
                const int row = gate_up ? moe_up_row(p, lane) : p * kPanelRows + lane;
                lanes.row[lane] = reinterpret_cast<const uint8_t*>(data) + row * row_bytes;
            }
            use(p, lanes);
        }
    }

    void blocks(const Matrix& m, int expert, const std::byte* data, bool gate_up) const {
        auto* out = const_cast<std::byte*>(m.data) + expert * m.data_stride;
        expert_panels(m, data, m.columns / 2, gate_up, [&](int p, const auto& lanes) {
            pack_mxfp4(lanes, m.columns, out + p * mxfp4_panel_bytes(m.columns));
        });
    }

    void scales(const Matrix& m, int expert, const std::byte* data, bool gate_up,
                const TensorSpec& tensor) const {
        auto* out = const_cast<std::byte*>(m.scales) + expert * m.scale_stride;
        bool valid = true;
        expert_panels(m, data, m.columns / kBlock, gate_up, [&](int p, const auto& lanes) {
            valid &= pack_e8m0(lanes, m.columns, out + p * mxfp4_scale_bytes(m.columns));
        });
        if (!valid)
            throw CheckpointError(message(source_.file_name(tensor), ": tensor ", tensor.name,
                                          ": expert ", expert,
                                          " has a scale byte of 255 (NaN), wanted 0 to 254"));
    }

    void add_error(const std::string& name, const SquaredError& squared) {
        std::lock_guard lock(error_mutex_);
        for (auto& [known, sum] : errors_) {
            if (known != name) continue;
            sum.error += squared.error;
            sum.weight += squared.weight;
            return;
        }
        errors_.emplace_back(name, squared);
    }

  public:
    void report_errors() {
        for (const auto& [name, sum] : errors_)
            model_.dense_errors.emplace_back(
                name, sum.weight > 0 ? std::sqrt(sum.error / sum.weight) : 0.0);
        std::sort(model_.dense_errors.begin(), model_.dense_errors.end());
    }

  private:
    const ModelConfig& config_;
    const TensorSource& source_;
    PlacedModel& model_;
    std::mutex error_mutex_;
    std::vector<std::pair<std::string, SquaredError>> errors_;
};

}  // namespace

PlacedModel CpuBackend::outline(const ModelConfig& config, WeightFormat dense) const {
    PlacedModel model;
    Carver count;
    carve(config, dense, count, model);
    model.bytes = count.used();
    return model;
}

std::unique_ptr<PlacedModel> CpuBackend::place(const ModelConfig& config,
                                               const ModelTensors& tensors,
                                               const TensorSource& source, WeightFormat dense,
                                               const Progress& progress) {
    auto model = std::make_unique<PlacedModel>();
    model->bytes = outline(config, dense).bytes;
    model->memory = Memory(model->bytes, "weights");
    Carver carver(model->memory.data(), model->bytes);
    carve(config, dense, carver, *model);

    Loader loader(config, source, *model);
    loader.embedding(tensors.embedding, model->embedding);
    loader.vector(tensors.final_norm, model->final_norm);
    for (int n = 0; n < config.layers; ++n) {
        const LayerTensors& from = tensors.layers[n];
        const PlacedLayer& to = model->layers[n];
        loader.vector(from.attention_norm, to.attention_norm);
        loader.dense(from.qkv, to.qkv);
        loader.stacked_vector(from.qkv_bias, to.qkv_bias);
        loader.vector(from.sinks, to.sinks);
        loader.dense({from.attn_out}, to.attn_out);
        loader.vector(from.attn_out_bias, to.attn_out_bias);
        loader.vector(from.moe_norm, to.moe_norm);
        loader.dense({from.router}, to.router);
        loader.vector(from.router_bias, to.router_bias);
        loader.experts(from.moe_up, to.moe_up, true);
        loader.moe_up_bias(from.moe_up.bias, to.moe_up_bias);
        loader.experts(from.moe_down, to.moe_down, false);
        loader.vector(from.moe_down.bias, to.moe_down_bias);
    }
    loader.dense({tensors.unembedding}, model->unembedding);

    const uint64_t total = tensors.bytes();
    std::atomic<uint64_t> done{0};
    pool_.run(static_cast<int64_t>(loader.jobs.size()), [&](int64_t index, int thread) {
        const Job& job = loader.jobs[index];
        job.run();
        const uint64_t now = done += job.bytes;
        // Only the calling thread may enter the caller's code.
        if (thread == 0 && progress) progress(now, total);
    });
    if (progress) progress(total, total);
    loader.report_errors();
    return model;
}

}  // namespace gptoss::cpu

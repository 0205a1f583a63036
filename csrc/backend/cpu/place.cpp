// Loading: published tensors to panels, a piece at a time over all threads. Only the piece at hand
// of the published form is in memory beside the placed model.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/placed_layout.h"

namespace gptoss::cpu {
namespace {

constexpr int kDensePiecePanels = 64;
constexpr uint64_t kEmbeddingPiece = uint64_t{8} << 20;
constexpr int kReadAhead = 16;  // jobs, of which the large are 4 to 9 MB in the published models
constexpr size_t kCacheMargin = size_t{1} << 29;

// Which published row stands in lane `lane` of a moe_up panel: gates of 16 outputs in one panel,
// their ups in the next, so that SwiGLU works lane by lane.
int moe_up_row(int panel, int lane) { return 2 * (panel / 2 * kPanelRows + lane) + panel % 2; }

template <class Pack>
void expert_panels(const Matrix& m, const std::byte* data, size_t row_bytes, bool gate_up,
                   Pack pack) {
    for (int p = 0; p < panel_count(m.rows); ++p) {
        PanelRows lanes;
        for (int lane = 0; lane < kPanelRows; ++lane) {
            const int row = gate_up ? moe_up_row(p, lane) : p * kPanelRows + lane;
            lanes.row[lane] = data + row * row_bytes;
        }
        pack(p, lanes);
    }
}

// Rows of columns / 32 scale bytes. False if one is 255, which means NaN.
bool pack_scale_panel(const PanelRows& rows, int blocks, std::byte* scales) {
    bool valid = true;
    for (int b = 0; b < blocks; ++b) {
        for (int r = 0; r < kPanelRows; ++r) {
            const std::byte scale = static_cast<const std::byte*>(rows.row[r])[b];
            valid &= scale != std::byte{255};
            scales[kPanelRows * b + r] = scale;
        }
    }
    return valid;
}

// False if a scale is NaN.
bool pack_scales(const Matrix& m, int expert, const std::byte* data, bool gate_up) {
    auto* out = const_cast<std::byte*>(m.scales) + expert * m.scale_stride;
    bool valid = true;
    expert_panels(m, data, m.columns / kBlock, gate_up, [&](int panel, const PanelRows& rows) {
        valid &=
            pack_scale_panel(rows, m.columns / kBlock, out + panel * mxfp4_scale_bytes(m.columns));
    });
    return valid;
}

using Use = std::function<void(const std::byte*)>;

struct Job {
    TensorRange range;
    Use use;
    int part;  // of the placed model
};

// What is to be read and what to make of it.
class Loader {
  public:
    Loader(const ModelConfig& config, std::shared_ptr<const Published> published,
           const Kernels& kernels)
        : config_(config),
          published_(std::move(published)),
          source_(*published_->source),
          kernels_(kernels) {}

    const std::vector<Job>& jobs() const { return jobs_; }

    // Lists the pieces of the whole model.
    void list(const PlacedModel& model) {
        const ModelTensors& tensors = published_->tensors;
        embedding(tensors.embedding, model.embedding);
        for (int n = 0; n < config_.layers; ++n) {
            ++part_;
            layer(tensors.layers[n], model.layers[n]);
        }
        ++part_;
        vector(tensors.final_norm, model.final_norm);
        dense({&tensors.unembedding, 1}, model.unembedding);
    }

    // Reads and places all of it. The first `kept` bytes stay in the system's file cache. Calls
    // told(job, bytes done, thread) after each.
    template <class Told>
    void run(ThreadPool& pool, uint64_t kept, Told told) const {
        uint64_t largest = 0;
        for (const Job& job : jobs_) largest = std::max(largest, job.range.size);
        std::vector<Memory> pieces;
        for (int i = 0; i < pool.threads(); ++i) pieces.emplace_back(largest, "a piece of a file");
        const auto count = static_cast<int64_t>(jobs_.size());
        std::atomic<uint64_t> done{0};
        pool.run_in_order(count, [&](int64_t index, int thread) {
            const Job& job = jobs_[index];
            if (index + kReadAhead < count) source_.expect(jobs_[index + kReadAhead].range);
            source_.read(job.range, done < kept, pieces[thread].data());
            job.use(pieces[thread].data());
            told(job, done += job.range.size, thread);
        });
    }

    // What requantising lost, by tensor.
    std::vector<std::pair<std::string, double>> dense_errors() const {
        std::vector<std::pair<std::string, double>> out;
        for (const auto& [name, sum] : errors_)
            out.emplace_back(name, sum.weight == 0 ? 0.0 : std::sqrt(sum.error / sum.weight));
        return out;
    }

  private:
    void add(TensorRange range, Use use) { jobs_.push_back({range, std::move(use), part_}); }

    void whole(const TensorSpec& tensor, Use use) {
        add({&tensor, 0, tensor.bytes()}, std::move(use));
    }

    void layer(const LayerTensors& from, const PlacedLayer& to) {
        vector(from.attention_norm, to.attention_norm);
        dense(from.qkv, to.qkv);
        stacked_vector(from.qkv_bias, to.qkv_bias);
        vector(from.sinks, to.sinks);
        dense({&from.attn_out, 1}, to.attn_out);
        vector(from.attn_out_bias, to.attn_out_bias);
        vector(from.moe_norm, to.moe_norm);
        dense({&from.router, 1}, to.router);
        vector(from.router_bias, to.router_bias);
        experts(from.moe_up, to.moe_up, true);
        moe_up_bias(from.moe_up.bias, to.moe_up_bias);
        experts(from.moe_down, to.moe_down, false);
        vector(from.moe_down.bias, to.moe_down_bias);
    }

    void vector(const TensorSpec& tensor, const float* out) {
        whole(tensor, [&tensor, out](const std::byte* data) {
            copy_floats(tensor, data, const_cast<float*>(out));
        });
    }

    void stacked_vector(const RowStack& stack, const float* out) {
        for (const TensorSpec& tensor : stack) {
            vector(tensor, out);
            out += tensor.elements();
        }
    }

    // Bias of gate and up in the order of the placed rows.
    void moe_up_bias(const TensorSpec& tensor, const float* out) {
        whole(tensor, [&tensor, out, this](const std::byte* data) {
            std::vector<float> published(tensor.elements());
            copy_floats(tensor, data, published.data());
            const int rows = 2 * config_.intermediate_size;
            for (size_t i = 0; i < published.size(); ++i) {
                const int panel = static_cast<int>(i) % rows / kPanelRows;
                const_cast<float*>(out)[i] =
                    published[i / rows * rows + moe_up_row(panel, i % kPanelRows)];
            }
        });
    }

    void embedding(const TensorSpec& tensor, const bf16* out) {
        auto* bytes = reinterpret_cast<std::byte*>(const_cast<bf16*>(out));
        for (uint64_t begin = 0; begin < tensor.bytes(); begin += kEmbeddingPiece) {
            const uint64_t size = std::min(kEmbeddingPiece, tensor.bytes() - begin);
            add({&tensor, begin, size}, [bytes, begin, size](const std::byte* data) {
                std::memcpy(bytes + begin, data, size);
            });
        }
    }

    // Stacked parts have multiples of 16 rows each but for the last, since head_dim is 32 or 64.
    void dense(std::span<const TensorSpec> stack, const Matrix& m) {
        int first_panel = 0;
        for (const TensorSpec& tensor : stack) {
            const int count = panel_count(static_cast<int>(tensor.shape[0]));
            for (int p = 0; p < count; p += kDensePiecePanels)
                dense_piece(tensor, m, first_panel, p, std::min(p + kDensePiecePanels, count));
            first_panel += count;
        }
    }

    void experts(const ExpertTensors& tensors, const Matrix& m, bool gate_up) {
        const uint64_t block_bytes = tensors.blocks.bytes() / config_.experts;
        const uint64_t scale_bytes = tensors.scales.bytes() / config_.experts;
        for (int e = 0; e < config_.experts; ++e) {
            add({&tensors.blocks, e * block_bytes, block_bytes}, [=, this](const std::byte* data) {
                auto* out = const_cast<std::byte*>(m.data) + e * m.data_stride;
                const int columns = m.columns;
                expert_panels(m, data, columns / 2, gate_up, [&](int panel, const PanelRows& rows) {
                    kernels_.pack_mxfp4(rows, columns, out + panel * mxfp4_panel_bytes(columns));
                });
            });
            add({&tensors.scales, e * scale_bytes, scale_bytes},
                [=, this, &tensors](const std::byte* data) {
                    if (!pack_scales(m, e, data, gate_up)) refuse(tensors.scales, e);
                });
        }
    }

    void dense_piece(const TensorSpec& tensor, const Matrix& m, int first_panel, int begin,
                     int end) {
        const int rows = static_cast<int>(tensor.shape[0]), columns = m.columns;
        const uint64_t row_bytes = uint64_t(columns) * sizeof(bf16);
        const int first_row = begin * kPanelRows;
        const uint64_t size = (std::min(end * kPanelRows, rows) - first_row) * row_bytes;
        add({&tensor, first_row * row_bytes, size}, [=, this, &tensor](const std::byte* data) {
            SquaredError squared;
            for (int p = begin; p < end; ++p) {
                PanelRows lanes;
                for (int lane = 0; lane < kPanelRows; ++lane) {
                    const int row = p * kPanelRows + lane;
                    lanes.row[lane] = row < rows ? data + (row - first_row) * row_bytes : nullptr;
                }
                const size_t panel = first_panel + p;
                auto* out = const_cast<std::byte*>(m.data) + panel * panel_bytes(m.format, columns);
                if (m.format == WeightFormat::kBf16) {
                    kernels_.pack_bf16(lanes, columns, out);
                } else {
                    kernels_.pack_int8(lanes, columns, out,
                                       const_cast<std::byte*>(m.scales) +
                                           panel * panel_scale_bytes(m.format, columns),
                                       squared);
                }
            }
            if (m.format == WeightFormat::kInt8) add_error(tensor.name, squared);
        });
    }

    void refuse(const TensorSpec& tensor, int expert) const {
        throw CheckpointError(message(source_.file_name(tensor), ": tensor ", tensor.name,
                                      ": expert ", expert,
                                      " has a scale byte of 255 (NaN), wanted 0 to 254"));
    }

    void add_error(const std::string& name, const SquaredError& squared) {
        std::lock_guard lock(error_mutex_);
        errors_[name].error += squared.error;
        errors_[name].weight += squared.weight;
    }

    const ModelConfig config_;
    const std::shared_ptr<const Published> published_;
    const TensorSource& source_;
    const Kernels& kernels_;
    std::vector<Job> jobs_;
    int part_ = 0;
    std::mutex error_mutex_;
    std::map<std::string, SquaredError> errors_;
};

// By threads of its own: the backend's may have steps to compute meanwhile.
void load_behind(PlacedModel& model, std::shared_ptr<Loader> loader, int threads, uint64_t kept) {
    const int last = model.parts() - 1;
    const auto arrival = std::make_shared<Arrival>(model.parts());
    for (const Job& job : loader->jobs()) arrival->expect(job.part, job.range.size);
    arrival->expect(last, 0);
    model.arriving = Arriving(arrival);
    Arrival* const told = arrival.get();  // it waits for this thread's end
    arrival->begin([&model, loader, threads, kept, told, last] {
        ThreadPool pool(threads);
        loader->run(pool, kept, [&](const Job& job, uint64_t, int) {
            told->arrived(job.part, job.range.size);
        });
        model.dense_errors = loader->dense_errors();
        told->arrived(last, 0);
    });
}

}  // namespace

std::unique_ptr<PlacedModel> CpuBackend::place(const ModelConfig& config,
                                               std::shared_ptr<const Published> published,
                                               WeightFormat dense, const Loading& loading) {
    auto model = std::make_unique<PlacedModel>();
    model->bytes = outline(config, dense).bytes;
    const size_t available = available_memory();
    model->memory = allocate(model->bytes, "weights");
    Carver carver(model->memory.data(), model->bytes);
    carve_model(config, dense, matrix_bytes, carver, *model);

    // Where the machine cannot hold the files beside the model, the same first part of them stays
    // cached: left to itself the system drops, at each start, just what is to be read next.
    const size_t cacheable = available > model->bytes ? available - model->bytes : 0;
    const uint64_t total = published->tensors.bytes();
    const uint64_t kept = available && cacheable < total + kCacheMargin
                              ? cacheable > kCacheMargin ? cacheable - kCacheMargin : 0
                              : total;
    const auto loader = std::make_shared<Loader>(config, std::move(published), kernels_);
    loader->list(*model);
    if (!loading.wait) {
        load_behind(*model, loader, pool_.threads(), kept);
        return model;
    }
    const Progress& progress = loading.progress;
    loader->run(pool_, kept, [&](const Job&, uint64_t done, int thread) {
        // Only the calling thread may enter the caller's code.
        if (thread == 0 && progress) progress(done, total);
    });
    if (progress) progress(total, total);
    model->dense_errors = loader->dense_errors();
    return model;
}

}  // namespace gptoss::cpu

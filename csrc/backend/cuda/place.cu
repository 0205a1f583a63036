// Loading: published tensors to tiles in the device's memory. Threads take the pieces in order;
// each reads into one of its two pinned buffers, has it copied, and has the device repack it while
// it reads the next. Bound by the disk, or by the copy.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <span>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/repack.cuh"
#include "backend/placed_layout.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace gptoss::cuda {
namespace {

constexpr int kDensePieceRows = 1024;  // a multiple of head_dim and of a panel's rows
constexpr uint64_t kEmbeddingPiece = uint64_t{8} << 20;
constexpr int kReadAhead = 16;  // pieces
constexpr int kBuffers = 2;
// The decode form's activations of experts are float16 terms, and of int8 weights in fast.
constexpr float kMostF16 = 65504;
constexpr double kMostLimit = 255;  // SwiGLU's: no result is beyond limit * (limit + 1)

template <class Tiles>
MatrixBytes tile_bytes(int rows, int columns) {
    const size_t steps = size_t(panel_count(rows)) * step_count<Tiles>(columns);
    return {steps * Tiles::kStepBytes, steps * Tiles::kStepScaleBytes};
}

MatrixBytes matrix_bytes(WeightFormat format, int rows, int columns) {
    switch (format) {
        case WeightFormat::kBf16: return tile_bytes<Bf16Tiles>(rows, columns);
        case WeightFormat::kInt8: return tile_bytes<Int8Tiles>(rows, columns);
        default: return tile_bytes<Mxfp4Tiles>(rows, columns);
    }
}

// Pinned memory, the piece's copy on the device, and the event after which both may be reused.
struct Buffer {
    std::byte* pinned = nullptr;
    std::byte* staged = nullptr;
    cudaEvent_t free = nullptr;
    bool in_use = false;
};

// What one loading thread works with.
class Lane {
  public:
    explicit Lane(size_t piece_bytes) {
        try {
            check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
            for (Buffer& b : buffers_) {
                check(cudaMallocHost(reinterpret_cast<void**>(&b.pinned), piece_bytes),
                      "taking pinned memory for a piece of a file");
                check(cudaMalloc(reinterpret_cast<void**>(&b.staged), piece_bytes),
                      "taking device memory for a piece of a file");
                check(cudaEventCreateWithFlags(&b.free, cudaEventDisableTiming), "making an event");
            }
        } catch (...) {
            release();
            throw;
        }
    }
    ~Lane() { release(); }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    // The next buffer, once the device is done with it.
    Buffer& take() {
        Buffer& b = buffers_[turn_++ % kBuffers];
        if (b.in_use) check(cudaEventSynchronize(b.free), "loading weights");
        return b;
    }
    void give(Buffer& b) {
        check(cudaEventRecord(b.free, stream), "loading weights");
        b.in_use = true;
    }
    void finish() { check(cudaStreamSynchronize(stream), "loading weights"); }

    cudaStream_t stream = nullptr;

  private:
    void release() {
        if (stream) cudaStreamSynchronize(stream);
        for (Buffer& b : buffers_) {
            if (b.pinned) cudaFreeHost(b.pinned);
            if (b.staged) cudaFree(b.staged);
            if (b.free) cudaEventDestroy(b.free);
        }
        if (stream) cudaStreamDestroy(stream);
    }

    Buffer buffers_[kBuffers];
    int turn_ = 0;
};

struct Job {
    TensorRange range;
    size_t buffer_bytes;
    // Puts on the lane's stream what turns the buffer's pinned bytes into placed ones.
    std::function<void(const Lane&, const Buffer&)> use;
};

void copy_to_device(const Lane& lane, void* to, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, lane.stream), "copying weights");
}

template <class T>
std::byte* bytes_of(const T* placed) {
    return reinterpret_cast<std::byte*>(const_cast<T*>(placed));
}

// Lists what is to be read and what to make of it. The tensors must outlive the list.
class Loader {
  public:
    Loader(const ModelConfig& config, const TensorSource& source)
        : config_(config), source_(source) {}

    std::vector<Job> jobs;
    // What requantising loses, by number of `requantised`, in device memory; set before a job runs.
    SquaredError* lost = nullptr;
    std::vector<std::string> requantised;  // names of tensors

    size_t buffer_bytes() const {
        size_t most = 0;
        for (const Job& job : jobs) most = std::max(most, job.buffer_bytes);
        return most;
    }

    // `most`: how large a value may be.
    void vector(const TensorSpec& tensor, const float* out, float most = INFINITY) {
        // What is read becomes float32 in the same buffer.
        jobs.push_back({{&tensor, 0, tensor.bytes()},
                        tensor.elements() * sizeof(float),
                        [this, &tensor, out, most](const Lane& lane, const Buffer& b) {
                            std::vector<float> values(tensor.elements());
                            copy_floats(tensor, b.pinned, values.data());
                            check_size(tensor, values, most);
                            const size_t bytes = values.size() * sizeof(float);
                            std::memcpy(b.pinned, values.data(), bytes);
                            copy_to_device(lane, bytes_of(out), b.pinned, bytes);
                        }});
    }

    void embedding(const TensorSpec& tensor, const bf16* out) {
        for (uint64_t begin = 0; begin < tensor.bytes(); begin += kEmbeddingPiece) {
            const uint64_t size = std::min(kEmbeddingPiece, tensor.bytes() - begin);
            jobs.push_back({{&tensor, begin, size},
                            size,
                            [out, begin, size](const Lane& lane, const Buffer& b) {
                                copy_to_device(lane, bytes_of(out) + begin, b.pinned, size);
                            }});
        }
    }

    void dense(std::span<const TensorSpec> stack, const Matrix& m, RowOrder order) {
        int above = 0;  // rows of the tensors before
        for (const TensorSpec& tensor : stack) {
            const int rows = static_cast<int>(tensor.shape[0]);
            const uint64_t row_bytes = uint64_t(m.columns) * sizeof(bf16);
            const size_t number = requantised.size();
            if (m.format == WeightFormat::kInt8) requantised.push_back(tensor.name);
            for (int first = 0; first < rows; first += kDensePieceRows) {
                const int count = std::min(kDensePieceRows, rows - first);
                const Piece piece = {bytes_of(m.data), order, config_.head_dim,
                                     above + first,    count, m.rows,
                                     m.columns};
                const uint64_t size = count * row_bytes;
                jobs.push_back({{&tensor, first * row_bytes, size},
                                size,
                                [=, this, &m](const Lane& lane, const Buffer& b) {
                                    copy_to_device(lane, b.staged, b.pinned, size);
                                    if (m.format == WeightFormat::kInt8)
                                        repack_int8(lane.stream, b.staged, piece,
                                                    bytes_of(m.scales), lost + number);
                                    else
                                        repack_bf16(lane.stream, b.staged, piece);
                                }});
            }
            above += rows;
        }
    }

    void experts(const ExpertTensors& tensors, const Matrix& m, RowOrder order) {
        const uint64_t block_bytes = tensors.blocks.bytes() / config_.experts;
        const uint64_t scale_bytes = tensors.scales.bytes() / config_.experts;
        for (int e = 0; e < config_.experts; ++e) {
            Piece piece = {
                bytes_of(m.data) + e * m.data_stride, order, 0, 0, m.rows, m.rows, m.columns};
            jobs.push_back({{&tensors.blocks, e * block_bytes, block_bytes},
                            block_bytes,
                            [=](const Lane& lane, const Buffer& b) {
                                copy_to_device(lane, b.staged, b.pinned, block_bytes);
                                repack_mxfp4(lane.stream, b.staged, piece);
                            }});
            piece.out = bytes_of(m.scales) + e * m.scale_stride;
            jobs.push_back({{&tensors.scales, e * scale_bytes, scale_bytes},
                            scale_bytes,
                            [=, this, &tensors](const Lane& lane, const Buffer& b) {
                                check_scales(tensors.scales, e, b.pinned, scale_bytes);
                                copy_to_device(lane, b.staged, b.pinned, scale_bytes);
                                repack_scales(lane.stream, b.staged, piece);
                            }});
        }
    }

  private:
    void check_size(const TensorSpec& tensor, const std::vector<float>& values, float most) const {
        for (const float value : values)
            if (std::fabs(value) > most)
                throw CheckpointError(message(source_.file_name(tensor), ": tensor ", tensor.name,
                                              " holds ", value, ", wanted at most ", most,
                                              " for activations in float16"));
    }

    void check_scales(const TensorSpec& tensor, int expert, const std::byte* scales,
                      uint64_t count) const {
        const int most = static_cast<int>(*std::max_element(scales, scales + count));
        if (most <= Mxfp4Tiles::kMostScale) return;
        const char* why = most == 255 ? " (NaN)" : "";
        throw CheckpointError(message(source_.file_name(tensor), ": tensor ", tensor.name,
                                      ": expert ", expert, " has a scale byte of ", most, why,
                                      ", wanted 0 to ", Mxfp4Tiles::kMostScale));
    }

    const ModelConfig& config_;
    const TensorSource& source_;
};

// `f16`: rows that dense weights multiply are float16 terms.
void list_jobs(const ModelConfig& config, const ModelTensors& tensors, const PlacedModel& model,
               bool f16, Loader& loader) {
    // No normalised value is beyond the square root of how many there are.
    const float most = kMostF16 / std::sqrt(static_cast<float>(config.hidden_size));
    const float dense_most = f16 ? most : INFINITY;
    loader.embedding(tensors.embedding, model.embedding);
    loader.vector(tensors.final_norm, model.final_norm, dense_most);
    for (int n = 0; n < config.layers; ++n) {
        const LayerTensors& from = tensors.layers[n];
        const PlacedLayer& to = model.layers[n];
        loader.vector(from.attention_norm, to.attention_norm, dense_most);
        loader.dense(from.qkv, to.qkv, RowOrder::kHalves);
        const float* bias = to.qkv_bias;
        for (const TensorSpec& part : from.qkv_bias) {
            loader.vector(part, bias);
            bias += part.elements();
        }
        loader.vector(from.sinks, to.sinks);
        loader.dense({&from.attn_out, 1}, to.attn_out, RowOrder::kPlain);
        loader.vector(from.attn_out_bias, to.attn_out_bias);
        loader.vector(from.moe_norm, to.moe_norm, most);
        loader.dense({&from.router, 1}, to.router, RowOrder::kPlain);
        loader.vector(from.router_bias, to.router_bias);
        loader.experts(from.moe_up, to.moe_up, RowOrder::kGateUp);
        loader.vector(from.moe_up.bias, to.moe_up_bias);
        loader.experts(from.moe_down, to.moe_down, RowOrder::kPlain);
        loader.vector(from.moe_down.bias, to.moe_down_bias);
    }
    loader.dense({&tensors.unembedding, 1}, model.unembedding, RowOrder::kPlain);
}

}  // namespace

std::vector<std::pair<std::string, double>> CudaBackend::dense_errors(
    const std::vector<std::string>& names, const StageMemory& lost) {
    std::vector<SquaredError> squared(names.size());
    read(squared.data(), lost.data(), lost.size());
    std::vector<std::pair<std::string, double>> out;
    for (size_t i = 0; i < names.size(); ++i) {
        const auto [error, weight] = squared[i];
        out.emplace_back(names[i], weight == 0 ? 0.0 : std::sqrt(error / weight));
    }
    return out;
}

PlacedModel CudaBackend::outline(const ModelConfig& config, WeightFormat dense) const {
    return outline_model(config, dense, matrix_bytes);
}

std::unique_ptr<PlacedModel> CudaBackend::place(const ModelConfig& config,
                                                std::shared_ptr<const Published> published,
                                                WeightFormat dense, const Loading& loading) {
    const ModelTensors& tensors = published->tensors;
    const TensorSource& source = *published->source;
    const Progress& progress = loading.progress;
    if (config.swiglu_limit > kMostLimit)
        throw CheckpointError(message("swiglu_limit is ", config.swiglu_limit, ", wanted at most ",
                                      kMostLimit, " for activations in float16"));
    auto model = std::make_unique<PlacedModel>();
    model->bytes = outline(config, dense).bytes;
    model->memory = allocate(model->bytes, "weights");
    Carver carver(model->memory.data(), model->bytes);
    carve_model(config, dense, matrix_bytes, carver, *model);

    Loader loader(config, source);
    const bool f16 = dense == WeightFormat::kInt8 && precision_ == Precision::kFast;
    list_jobs(config, tensors, *model, f16, loader);
    const std::vector<SquaredError> nothing(loader.requantised.size());
    const StageMemory lost =
        allocate(nothing.size() * sizeof(SquaredError), "what requantising loses");
    write(lost.data(), nothing.data(), lost.size());
    synchronize();
    loader.lost = reinterpret_cast<SquaredError*>(lost.data());
    ThreadPool pool(loading_threads_);
    std::vector<std::unique_ptr<Lane>> lanes;
    for (int i = 0; i < pool.threads(); ++i)
        lanes.push_back(std::make_unique<Lane>(loader.buffer_bytes()));
    const auto count = static_cast<int64_t>(loader.jobs.size());
    uint64_t total = 0;
    for (const Job& job : loader.jobs) total += job.range.size;
    std::atomic<uint64_t> done{0};
    pool.run_in_order(count, [&](int64_t index, int thread) {
        check(cudaSetDevice(device_.index), "choosing the device");
        Lane& lane = *lanes[thread];
        const Job& job = loader.jobs[index];
        if (index + kReadAhead < count) source.expect(loader.jobs[index + kReadAhead].range);
        Buffer& buffer = lane.take();
        source.read(job.range, true, buffer.pinned);
        job.use(lane, buffer);
        lane.give(buffer);
        const uint64_t now = done += job.range.size;
        // Only the calling thread may enter the caller's code.
        if (thread == 0 && progress) progress(now, total);
    });
    for (const auto& lane : lanes) lane->finish();
    if (progress) progress(total, total);
    model->dense_errors = dense_errors(loader.requantised, lost);
    dense_ = dense;
    return model;
}

}  // namespace gptoss::cuda

// The device as a backend: what it wants of steps, its scratch, its memory, its clock, its graphs.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/activations.cuh"
#include "backend/cuda/prefill_product.cuh"
#include "base/error.h"
#include "base/memory.h"

namespace gptoss::cuda {
namespace {

constexpr int kPrefillRows = 1024;
constexpr int kOldestArchitecture = 80;
constexpr size_t kOutboxBytes = size_t{4} << 20;

int term_count(Precision precision) {
    return precision == Precision::kExact ? kExactTerms : kFastTerms;
}

Device open_device(int index, std::string& name) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, index), "asking for a device's properties");
    name = properties.name;
    Device d;
    d.index = index;
    d.multiprocessors = properties.multiProcessorCount;
    d.architecture = 10 * properties.major + properties.minor;
    d.shared_limit = properties.sharedMemPerBlockOptin - kStaticShared;
    if (d.architecture < kOldestArchitecture)
        throw DeviceError(message(name, " is of compute capability ", properties.major, ".",
                                  properties.minor, ", wanted 8.0 or later"));
    check(cudaSetDevice(index), "choosing the device");
    check(cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking), "making a stream");
    return d;
}

}  // namespace

CudaBackend::CudaBackend(int index, Precision precision, int loading_threads)
    : precision_(precision), loading_threads_(loading_threads), device_(open_device(index, name_)) {
    try {
        check(cudaMallocHost(reinterpret_cast<void**>(&outbox_), kOutboxBytes),
              "taking pinned memory");
        check(cudaMallocHost(reinterpret_cast<void**>(&inbox_), 2 * kFetchBytes),
              "taking pinned memory");
        for (cudaEvent_t& event : arrived_)
            check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    } catch (...) {
        release();
        throw;
    }
}

CudaBackend::~CudaBackend() { release(); }

// A lost device answers all of these with errors, which change nothing any more.
void CudaBackend::release() {
    cudaSetDevice(device_.index);
    cudaStreamSynchronize(device_.stream);
    for (const auto& [key, graph] : graphs_)
        if (graph) cudaGraphExecDestroy(graph);
    for (cudaEvent_t event : arrived_)
        if (event) cudaEventDestroy(event);
    if (inbox_) cudaFreeHost(inbox_);
    if (outbox_) cudaFreeHost(outbox_);
    cudaStreamDestroy(device_.stream);
    cudaGetLastError();
}

BackendTraits CudaBackend::traits() const {
    BackendTraits out;
    out.prefill_rows = kPrefillRows;
    out.decode_rows = kStepRows;
    out.asynchronous = true;
    out.host_memory = false;
    out.key_tile = 1;
    out.activation_bytes = 2 * term_count(precision_);
    out.forms_agree = false;
    return out;
}

Scratch CudaBackend::carve(const ModelConfig& c, Carver& carver) const {
    const size_t rows = kPrefillRows, pairs = rows * c.experts_per_token;
    const size_t widest = std::max(c.hidden_size, c.query_rows());
    const size_t panels = panel_count(std::max(c.hidden_size, c.experts));
    Scratch s;
    s.most_tiles = pair_tiles(static_cast<int>(pairs), c.experts, term_count(precision_));
    s.rows = carver.take<std::byte>(rows * widest * 2 * term_count(precision_));
    s.partial = carver.take<float>(pairs * c.hidden_size);
    s.scores = carver.take<float>(rows * c.experts);
    s.sorted = carver.take<int>(pairs);
    s.tiles = carver.take<RowTile>(s.most_tiles);
    s.tile_count = carver.take<int>(1);
    s.split_sums = carver.take<float>(panels * kMostSplits * kTileSums);
    s.counters = carver.take<unsigned>(panels + 1);
    s.attention = carver.take<std::byte>(
        attention_scratch_bytes(device_, kPrefillRows, c.heads, c.kv_heads, c.head_dim));
    s.sample = carver.take<std::byte>(sample_scratch_bytes(kStepRows, c.vocab_size));
    return s;
}

size_t CudaBackend::scratch_bytes(const ModelConfig& config) const {
    Carver count;
    carve(config, count);
    return count.used();
}

void CudaBackend::prepare(const ModelConfig& config) {
    memory_ = allocate(scratch_bytes(config), "scratch");
    check(cudaMemsetAsync(memory_.data(), 0, memory_.size(), device_.stream), "clearing scratch");
    Carver carver(memory_.data(), memory_.size());
    scratch_ = carve(config, carver);
}

size_t CudaBackend::available_bytes() const {
    check(cudaSetDevice(device_.index), "choosing the device");
    size_t available = 0, all = 0;
    check(cudaMemGetInfo(&available, &all), "asking for the free memory");
    return available;
}

StageMemory CudaBackend::allocate(size_t bytes, const std::string& purpose) {
    check(cudaSetDevice(device_.index), "choosing the device");
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, std::max<size_t>(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw OutOfMemory(message("cannot have ", bytes, " bytes of ", name_, " for ", purpose,
                                  "; it can give ", available_bytes()));
    }
    check(status, "taking device memory");
    const int index = device_.index;
    return {static_cast<std::byte*>(data), bytes, [index](std::byte* p) {
                cudaSetDevice(index);
                cudaFree(p);
            }};
}

void CudaBackend::write(void* to, const void* from, size_t bytes) {
    check(cudaSetDevice(device_.index), "choosing the device");
    auto* out = static_cast<std::byte*>(to);
    const auto* in = static_cast<const std::byte*>(from);
    while (bytes > 0) {
        if (outbox_used_ == kOutboxBytes) {
            check(cudaStreamSynchronize(device_.stream), "copying to the device");
            outbox_used_ = 0;
        }
        const size_t piece = std::min(bytes, kOutboxBytes - outbox_used_);
        std::memcpy(outbox_ + outbox_used_, in, piece);
        check(cudaMemcpyAsync(out, outbox_ + outbox_used_, piece, cudaMemcpyHostToDevice,
                              device_.stream),
              "copying to the device");
        outbox_used_ = std::min(kOutboxBytes, round_up(outbox_used_ + piece, kCacheLine));
        out += piece;
        in += piece;
        bytes -= piece;
    }
}

void CudaBackend::copy(void* to, const void* from, size_t bytes) {
    check(cudaSetDevice(device_.index), "choosing the device");
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device_.stream),
          "copying a cache");
}

void CudaBackend::read(void* to, const void* from, size_t bytes) {
    check(cudaSetDevice(device_.index), "choosing the device");
    auto* out = static_cast<std::byte*>(to);
    const auto* in = static_cast<const std::byte*>(from);
    // What was on its way out of the pinned memory has left it once the stream has ended.
    check(cudaStreamSynchronize(device_.stream), "running the model");
    outbox_used_ = 0;
    for (size_t done = 0; done < bytes; done += kOutboxBytes) {
        const size_t piece = std::min(bytes - done, kOutboxBytes);
        check(cudaMemcpyAsync(outbox_, in + done, piece, cudaMemcpyDeviceToHost, device_.stream),
              "copying from the device");
        check(cudaStreamSynchronize(device_.stream), "copying from the device");
        std::memcpy(out + done, outbox_, piece);
    }
}

void CudaBackend::synchronize() {
    check(cudaStreamSynchronize(device_.stream), "running the model");
}

void CudaBackend::fetch(int slot, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(inbox_ + slot * kFetchBytes, from, bytes, cudaMemcpyDeviceToHost,
                          device_.stream),
          "copying from the device");
    check(cudaEventRecord(arrived_[slot], device_.stream), "copying from the device");
}

const std::byte* CudaBackend::fetched(int slot) {
    check(cudaEventSynchronize(arrived_[slot]), "running the model");
    return inbox_ + slot * kFetchBytes;
}

// The first time the stages run as they are, which also loads their kernels.
void CudaBackend::repeat(int key, const std::function<void()>& stages) {
    check(cudaSetDevice(device_.index), "choosing the device");
    const auto [place, first] = graphs_.try_emplace(key, nullptr);
    if (first) {
        stages();
        return;
    }
    if (!place->second) place->second = record(stages);
    check(cudaGraphLaunch(place->second, device_.stream), "running a recorded step");
}

cudaGraphExec_t CudaBackend::record(const std::function<void()>& stages) {
    check(cudaStreamBeginCapture(device_.stream, cudaStreamCaptureModeThreadLocal),
          "recording a step");
    cudaGraph_t graph = nullptr;
    try {
        stages();
    } catch (...) {
        cudaStreamEndCapture(device_.stream, &graph);
        if (graph) cudaGraphDestroy(graph);
        throw;
    }
    check(cudaStreamEndCapture(device_.stream, &graph), "recording a step");
    cudaGraphExec_t out = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&out, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "recording a step");
    return out;
}

// All calls as one graph, so that launching costs what it costs in a step; of several replays.
double CudaBackend::time(int calls, const std::function<void(int)>& work) {
    constexpr int kReplays = 5;
    check(cudaSetDevice(device_.index), "choosing the device");
    work(0);
    const cudaGraphExec_t graph = record([&] {
        for (int i = 0; i < calls; ++i) work(i);
    });
    cudaEvent_t begin = nullptr, end = nullptr;
    std::vector<double> seconds;
    cudaError_t status = cudaEventCreate(&begin);
    if (status == cudaSuccess) status = cudaEventCreate(&end);
    for (int i = 0; i <= kReplays && status == cudaSuccess; ++i) {
        float milliseconds = 0;
        cudaEventRecord(begin, device_.stream);
        cudaGraphLaunch(graph, device_.stream);
        cudaEventRecord(end, device_.stream);
        status = cudaEventSynchronize(end);
        if (status == cudaSuccess) status = cudaEventElapsedTime(&milliseconds, begin, end);
        if (i > 0) seconds.push_back(milliseconds * 1e-3 / calls);
    }
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    cudaGraphExecDestroy(graph);
    check(status, "timing stages");
    std::nth_element(seconds.begin(), seconds.begin() + kReplays / 2, seconds.end());
    return seconds[kReplays / 2];
}

void CudaBackend::read_activations(const void* own, const MoeUpArgs& args, int rows, int columns,
                                   float* out) {
    const size_t bytes = size_t(rows) * columns * sizeof(float);
    const StageMemory floats = allocate(bytes, "reading activations");
    read_rows(device_, precision_, args.form, static_cast<const std::byte*>(own), rows, columns,
              reinterpret_cast<float*>(floats.data()));
    read(out, floats.data(), bytes);
}

double CudaBackend::read_rate(const std::byte* data, size_t bytes) {
    const size_t read_bytes = bytes / 16 * 16;
    const StageMemory out = allocate(sizeof(float), "measuring the read rate");
    const auto read_all = [&](int) {
        read_memory(device_, data, read_bytes, reinterpret_cast<float*>(out.data()));
    };
    return static_cast<double>(read_bytes) / time(4, read_all);
}

// By a kernel: a recorded cudaMemcpy has 60 % of its rate on an H200.
double CudaBackend::copy_rate(size_t bytes) {
    const size_t copied = bytes / 16 * 16;
    const StageMemory from = allocate(bytes, "measuring the copy rate");
    const StageMemory to = allocate(bytes, "measuring the copy rate");
    check(cudaMemsetAsync(from.data(), 1, bytes, device_.stream), "measuring the copy rate");
    const double seconds =
        time(4, [&](int) { copy_memory(device_, from.data(), to.data(), copied); });
    return 2.0 * static_cast<double>(copied) / seconds;
}

std::vector<std::pair<std::string, std::string>> CudaBackend::describe() const {
    const bool exact = precision_ == Precision::kExact, int8 = dense_ == WeightFormat::kInt8;
    const std::string terms = exact ? "activations in 3 bf16 terms" : "activations in 2 bf16 terms";
    const std::string count = exact ? "3" : "2";
    const std::string prefill = exact                     ? "bf16 mma, 3 terms, "
                                : has_warpgroups(device_) ? "bf16 wgmma, 1 term, "
                                                          : "bf16 mma, 1 term, ";
    const std::string streamed = int8 && exact ? "int8 to bf16 mma, " + terms
                                 : int8        ? "int8 to f16 mma, activations in 2 f16 terms"
                                               : "bf16 mma, " + terms;
    const std::string dense = "decode: " + streamed +
                              ", streamed; prefill: " + (int8 ? "int8 to " : "") + prefill +
                              "tiled";
    const std::string experts = "decode: mxfp4 to f16 mma, " + count +
                                " terms, streamed; prefill: mxfp4 to " + prefill + "grouped";
    return {
        {"device", name_},
        {"architecture", message("sm_", device_.architecture)},
        {"embed", "table look-up"},
        {"qkv", dense + "; norm, bias, rope and cache write fused"},
        {"attention", exact ? "float32, split over keys"
                            : "decode: f16 mma, 2 terms, split over keys; "
                              "prefill: f16 mma in tiles"},
        {"attn_out", dense},
        {"router", "bf16 mma, " + terms + "; choice fused"},
        {"moe_up", experts + "; SwiGLU fused"},
        {"moe_down", experts},
        {"logits", streamed + ", streamed"},
        {"sample", "fixed point, on the device"},
    };
}

void CudaBackend::embed(const EmbedArgs& a) { cuda::embed(device_, a); }

void CudaBackend::qkv(const QkvArgs& a) { cuda::qkv(device_, precision_, a, scratch_); }

void CudaBackend::attention(const AttentionArgs& a) {
    if (a.form == Form::kPrefill && precision_ == Precision::kFast)
        attention_prefill(device_, a);
    else
        attention_decode(device_, a, scratch_.attention);
}

void CudaBackend::attn_out(const AttnOutArgs& a) {
    cuda::attn_out(device_, precision_, a, scratch_);
}

void CudaBackend::router(const RouterArgs& a) { cuda::router(device_, precision_, a, scratch_); }

void CudaBackend::moe_up(const MoeUpArgs& a) { cuda::moe_up(device_, precision_, a, scratch_); }

void CudaBackend::moe_down(const MoeDownArgs& a) {
    cuda::moe_down(device_, precision_, a, scratch_);
}

void CudaBackend::logits(const LogitsArgs& a) { cuda::logits(device_, precision_, a); }

void CudaBackend::sample(const SampleArgs& a) { cuda::sample(device_, a, scratch_.sample); }

}  // namespace gptoss::cuda

// The processor as a backend: what it wants of steps, its scratch, its memory, its clock.
#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backend/kv_slot.h"

namespace gptoss::cpu {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Over a carver of no memory it only counts.
Scratch carve(const ModelConfig& c, size_t rows, size_t threads, bool tiles, Carver& carver) {
    const size_t heads_per_kv = c.heads / c.kv_heads;
    Scratch s;
    s.widest = std::max({c.hidden_size, c.query_rows(), c.intermediate_size});
    s.scores_stride = heads_per_kv * kUnitTiles * kKvTile;
    s.unit_floats = heads_per_kv * (c.head_dim + 2);
    s.most_units = c.max_context / (kUnitTiles * kKvTile) + 2;
    s.activations = carver.take<std::byte>(rows * s.widest * sizeof(float));
    s.staging = carver.take<float>(threads * s.widest);
    s.gate_rows = carver.take<float>(threads * kMostProductRows * s.widest);
    s.qkv = carver.take<float>(rows * c.qkv_rows());
    s.partial = carver.take<float>(rows * c.experts_per_token * c.hidden_size);
    s.scores = carver.take<float>(threads * s.scores_stride);
    s.units = carver.take<float>(kSplitBelow * threads * s.most_units * s.unit_floats);
    s.sorted = carver.take<int>(rows * c.experts_per_token);
    if (!tiles) return s;
    // Each expert's rows begin a tile of their own.
    const size_t experts = std::min<size_t>(c.experts, rows * c.experts_per_token);
    const size_t pairs = rows * c.experts_per_token + experts * (kTileRows - 1);
    const size_t dense = (rows + kTileRows - 1) * s.widest;
    const size_t values = std::max(dense, pairs * std::max(c.hidden_size, c.intermediate_size));
    s.most_key_tiles = c.max_context / kKvTile + kTileKeys / kKvTile;
    s.tiles.x =
        carver.take<std::byte>(values * sizeof(bf16) + values / kTileColumns * sizeof(float));
    s.tiles.rows_bytes =
        kMostRowTiles * (kTileBytes + kTileRows * sizeof(float)) * (c.hidden_size / kTileColumns);
    s.tiles.rows = carver.take<std::byte>(threads * s.tiles.rows_bytes);
    s.tiles.out = carver.take<float>(threads * kOutputs);
    s.tiles.unpacked = carver.take<std::byte>(threads * kUnpackedBytes);
    s.attention = carver.take<std::byte>(threads * kAttentionBytes);
    s.key_tiles = carver.take<const void*>(threads * 2 * s.most_key_tiles);
    return s;
}

}  // namespace

const Kernels& kernels(Isa isa) {
    switch (isa) {
#ifdef GPTOSS_X86
        case Isa::kAvx2: return avx2::kKernels;
        case Isa::kAvx512:
        case Isa::kAmx: return avx512::kKernels;
#endif
        default: return scalar::kKernels;
    }
}

namespace {

// The prefill form on the tile unit, where there is one.
const Tiles* prompt_tiles([[maybe_unused]] Isa isa, Precision precision) {
    if (precision == Precision::kExact) return nullptr;
#ifdef GPTOSS_X86
    if (isa == Isa::kAmx) return &amx::kTiles;
#endif
    return nullptr;
}

// Many rows of the decode form.
const Tiles* wide_tiles([[maybe_unused]] Isa isa, Precision precision) {
    if (precision == Precision::kExact) return nullptr;
#ifdef GPTOSS_X86
    if (isa >= Isa::kAvx512) return &avx512::kTiles;
    if (isa == Isa::kAvx2) return &avx2::kTiles;
#endif
    return nullptr;
}

}  // namespace

CpuBackend::CpuBackend(Precision precision, int threads)
    : precision_(precision),
      isa_(choose_isa()),
      kernels_(kernels(isa_)),
      prompt_tiles_(prompt_tiles(isa_, precision)),
      wide_tiles_(wide_tiles(isa_, precision)),
      pool_(threads) {}

BackendTraits CpuBackend::traits() const {
    BackendTraits out;
    out.prefill_rows = wide_tiles_ ? kTilePrefillRows : kPrefillRows;
    out.decode_rows = kDecodeRows;
    out.asynchronous = false;
    out.host_memory = true;
    out.key_tile = kKvTile;
    out.activation_bytes = sizeof(float);
    out.forms_agree = !prompt_tiles_;
    return out;
}

size_t CpuBackend::scratch_bytes(const ModelConfig& config) const {
    Carver count;
    carve(config, traits().prefill_rows, pool_.threads(), wide_tiles_, count);
    return count.used();
}

void CpuBackend::prepare(const ModelConfig& config) {
    memory_ = Memory(scratch_bytes(config), "scratch");
    Carver carver(memory_.data(), memory_.size());
    scratch_ = carve(config, traits().prefill_rows, pool_.threads(), wide_tiles_, carver);
    begin_.assign(config.experts + 1, 0);
}

StageMemory CpuBackend::allocate(size_t bytes, const std::string& purpose) {
    auto memory = std::make_shared<Memory>(bytes, purpose);
    std::byte* data = memory->data();
    return {data, bytes, [memory](std::byte*) mutable { memory.reset(); }};
}

void CpuBackend::write(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

void CpuBackend::read(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

void CpuBackend::fetch(int slot, const void* from, size_t bytes) {
    std::memcpy(fetched_[slot], from, bytes);
}

double CpuBackend::time(int calls, const std::function<void(int)>& work) {
    std::vector<double> seconds;
    for (int call = 0; call < calls; ++call) {
        const auto start = Clock::now();
        work(call);
        seconds.push_back(seconds_since(start));
    }
    std::nth_element(seconds.begin(), seconds.begin() + calls / 2, seconds.end());
    return seconds[calls / 2];
}

double CpuBackend::read_rate(const std::byte* data, size_t bytes) {
    constexpr size_t kPiece = size_t{1} << 20;
    const size_t pieces = std::max<size_t>(bytes / kPiece, 1);
    const size_t piece = bytes / pieces / 256 * 256;
    std::atomic<uint64_t> all{0};
    const auto start = Clock::now();
    pool_.run(static_cast<int64_t>(pieces), [&](int64_t i, int) {
        all.fetch_or(kernels_.read(data + i * piece, piece), std::memory_order_relaxed);
    });
    return static_cast<double>(pieces * piece) / std::max(seconds_since(start), 1e-9);
}

double CpuBackend::copy_rate(size_t bytes) {
    constexpr size_t kPiece = size_t{1} << 20;
    const auto pieces = static_cast<int64_t>(std::max<size_t>(bytes / kPiece, 1));
    const Memory from(pieces * kPiece, "measuring the copy rate");
    const Memory to(pieces * kPiece, "measuring the copy rate");
    const auto copy = [&] {
        pool_.run(pieces, [&](int64_t i, int) {
            std::memcpy(to.data() + i * kPiece, from.data() + i * kPiece, kPiece);
        });
    };
    std::memset(from.data(), 1, from.size());
    copy();  // an untouched page is not memory yet
    const auto start = Clock::now();
    copy();
    return 2.0 * static_cast<double>(to.size()) / std::max(seconds_since(start), 1e-9);
}

std::vector<std::pair<std::string, std::string>> CpuBackend::describe() const {
    const std::string isa = isa_name(kernels_.isa);
    const bool fast = precision_ == Precision::kFast;
    const std::string blocks = fast ? ", 16-bit block activations" : ", float32 activations";
    const std::string dense = isa + ", bf16 with float32 activations or int8" + blocks;
    // Both forms, where they differ.
    const auto forms = [&](const std::string& both) {
        return traits().forms_agree ? both : "prompts: amx, bf16 activations; generated: " + both;
    };
    return {
        {"instruction set", isa_name(isa_)},
        {"threads", std::to_string(pool_.threads())},
        {"embed", "table look-up"},
        {"qkv", forms(dense)},
        {"attention", forms(isa)},
        {"attn_out", forms(dense)},
        {"router", isa + ", bf16 with float32 activations"},
        {"moe_up", forms(isa + ", mxfp4" + blocks)},
        {"moe_down", forms(isa + ", mxfp4" + blocks)},
        {"logits", dense},
        {"sample", "float64"},
    };
}

}  // namespace gptoss::cpu

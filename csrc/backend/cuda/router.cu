// Stage router. Decode form: norm, scores, the best few and their softmax in one kernel: blocks
// share the experts' panels and the columns, and the last block to end chooses, a warp a row.
// Prefill form: norm, product and choice apart. Bound by latency.
#include "backend/cuda/arrive.cuh"
#include "backend/cuda/dense_decode.cuh"
#include "backend/cuda/prefill_product.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kMostExperts = 128;
constexpr int kMostChosen = 8;
constexpr int kLaneExperts = kMostExperts / kWarp;
constexpr int kSplitColumns = 256;  // columns a block takes at least
constexpr int kChooseThreads = 256;

struct Choice {
    const float* scores;  // [rows, experts], unless the shares below are to be added up
    const float* shares;  // [panels][splits][kTileSums] of this kernel's blocks; null: scores
    const float* bias;    // [experts]
    int splits;
    int* expert;    // [rows, top_k]   out
    float* weight;  // [rows, top_k]   out
    int rows, experts, top_k;
};

// Grows with the score, then with a lower id; a NaN is under every number, and 0 is no expert.
__device__ __forceinline__ uint64_t order_key(float score, int expert) {
    const uint32_t bits = __float_as_uint(score);
    uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    if (score != score) key = 1;
    return uint64_t{key} << 32 | static_cast<uint32_t>(kMostExperts - expert);
}

__device__ __forceinline__ float score_of_key(uint64_t key) {
    const uint32_t bits = static_cast<uint32_t>(key >> 32);
    return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

__device__ __forceinline__ float score(const Choice& c, int row, int expert) {
    if (!c.shares) return c.scores[size_t(row) * c.experts + expert];
    const int panel = expert / kTileRows, i = sum_index(expert % kTileRows, row);
    float sum = 0;
#pragma unroll
    for (int s = 0; s < kMostSplits; ++s)
        if (s < c.splits) sum += __ldcg(c.shares + (size_t(panel) * c.splits + s) * kTileSums + i);
    return sum + c.bias[expert];
}

// One warp chooses for one row. Ties go to the lower id; where a score is not finite the choice
// means nothing, and the weights say so.
__device__ void choose(const Choice& c, int row, int lane) {
    uint64_t key[kLaneExperts];
    bool finite = true;
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
        const int e = lane + i * kWarp;
        key[i] = 0;
        if (e >= c.experts) continue;
        const float value = score(c, row, e);
        finite = finite && fabsf(value) <= 3.402823466e38f;
        key[i] = order_key(value, e);
    }
    const float poison = __all_sync(0xffffffffu, finite) ? 0.0f : __uint_as_float(0x7fffffffu);
    float mine = 0, total = 0, best = 0;  // mine: the weight of the slot numbered as this lane
#pragma unroll 1
    for (int slot = 0; slot < c.top_k; ++slot) {
        uint64_t top = 0;
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) top = key[i] > top ? key[i] : top;
#pragma unroll
        for (int offset = kWarp / 2; offset > 0; offset /= 2) {
            const uint64_t other = __shfl_xor_sync(0xffffffffu, top, offset);
            top = other > top ? other : top;
        }
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i)
            if (key[i] == top) key[i] = 0;
        const float value = score_of_key(top);
        if (slot == 0) best = value;
        const float weight = expf(value - best);
        total += weight;
        if (lane != slot) continue;
        mine = weight;
        c.expert[row * c.top_k + slot] = kMostExperts - static_cast<int>(top & 0xffffffffu);
    }
    if (lane < c.top_k) c.weight[row * c.top_k + lane] = mine / total + poison;
}

// Decode form: the shares stay where the blocks put them until all have come.
struct ChoosingEpilogue {
    struct Ready {};
    static constexpr bool kReadyEarly = true, kSplits = true;
    unsigned* arrived;
    Choice choice;

    __device__ Ready prepare(int, int, int, int) const { return {}; }
    __device__ void operator()(Ready, int, int, int, int, float, float) const {}
    __device__ void finish() const {
        if (!arrive_last(arrived, gridDim.x * gridDim.y)) return;
        const int lane = threadIdx.x % kWarp;
        for (int row = threadIdx.x / kWarp; row < choice.rows; row += kDecodeWarps)
            choose(choice, row, lane);
    }
};

// Prefill form.
struct ScoresEpilogue {
    const float* bias;
    float* scores;
    int experts;

    __device__ void put(int expert, int t, float value) const {
        if (expert < experts) scores[size_t(t) * experts + expert] = value + bias[expert];
    }
    __device__ void operator()(int, int panel, int r, int t, float low, float high) const {
        put(panel * kTileRows + r, t, low);
        put(panel * kTileRows + r + 8, t, high);
    }
};

__global__ __launch_bounds__(kChooseThreads) void choose_kernel(Choice choice) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int row = blockIdx.x * (kChooseThreads / kWarp) + threadIdx.x / kWarp;
    if (row < choice.rows) choose(choice, row, threadIdx.x % kWarp);
}

template <int terms>
void decode(const Device& device, const RouterArgs& a, const Scratch& scratch) {
    Splits splits;
    // At least two: only shares are kept.
    splits.count = max(2, min(a.hidden / kSplitColumns, kMostSplits));
    splits.sums = scratch.split_sums;
    const int most = dense_decode_rows<terms>(device, a.hidden);
    for (int first = 0; first < a.tokens; first += most) {
        const int rows = min(most, a.tokens - first);
        const int pairs = first * a.top_k;
        std::byte* const h = static_cast<std::byte*>(a.h) + first * own_row_bytes<terms>(a.hidden);
        const NormedRows<true> input = {a.x + size_t(first) * a.hidden, nullptr, a.norm, a.eps, h};
        const Choice choice = {nullptr,      scratch.split_sums, a.bias,
                               splits.count, a.expert + pairs,   a.weight + pairs,
                               rows,         a.experts,          a.top_k};
        launch_dense_decode<terms>(device, a.gate, input,
                                   ChoosingEpilogue{scratch.counters, choice}, splits, rows);
    }
}

template <int terms>
void prefill(const Device& device, const RouterArgs& a, const Scratch& scratch) {
    auto* const h = static_cast<std::byte*>(a.h);
    norm_rows(device, {a.x, a.norm, a.eps, a.tokens, a.hidden, terms}, h);
    const Choice choice = {scratch.scores, nullptr,  a.bias,    0,      a.expert,
                           a.weight,       a.tokens, a.experts, a.top_k};
    constexpr int kRowTiles = 4;  // few panels: small tiles, to have more blocks
    launch_prefill<Bf16Tiles, terms, kRowTiles>(device, a.gate, h, AllRows{a.tokens},
                                                (a.tokens + 8 * kRowTiles - 1) / (8 * kRowTiles),
                                                ScoresEpilogue{a.bias, scratch.scores, a.experts});
    constexpr int kRows = kChooseThreads / kWarp;
    launch(device, choose_kernel, dim3((a.tokens + kRows - 1) / kRows), dim3(kChooseThreads), 0,
           choice);
}

template <int terms>
void run(const Device& device, const RouterArgs& a, const Scratch& scratch) {
    if (a.form == Form::kPrefill)
        prefill<terms>(device, a, scratch);
    else
        decode<terms>(device, a, scratch);
}

}  // namespace

void router(const Device& device, Precision precision, const RouterArgs& args,
            const Scratch& scratch) {
    with_terms(precision, [&](auto terms) { run<terms()>(device, args, scratch); });
}

}  // namespace gptoss::cuda

// Stage router. Decode form: norm, scores, the best few and their softmax in one kernel: blocks
// share the experts' panels and the columns, and the last block to end chooses, a warp a row.
// Prefill form: the same, a block some rows. Bound by latency.
#include "backend/cuda/arrive.cuh"
#include "backend/cuda/dense_decode.cuh"
#include "backend/cuda/prefill_form.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

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
        // The lanes' greatest key, half by half.
        const auto high = static_cast<unsigned>(top >> 32), low = static_cast<unsigned>(top);
        const unsigned best_high = __reduce_max_sync(0xffffffffu, high);
        const unsigned best_low = __reduce_max_sync(0xffffffffu, high == best_high ? low : 0);
        top = uint64_t{best_high} << 32 | best_low;
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

// Prefill form: a block has some rows, eight warps share the columns and add up what each has, then
// a warp a row chooses. `h` takes the form of the products that read it, the scores terms of their
// own.
template <class Own, int terms, int kRowTiles>
struct RowsKernel {
    static constexpr int kRows = kDecodeRows * kRowTiles;
    static constexpr int kWarps = kChooseThreads / kWarp;
    static constexpr int kMostPanels = kMostExperts / kTileRows;

    const float* x;     // [tokens, hidden]
    const float* norm;  // [hidden]
    Matrix gate;
    float eps;
    std::byte* h;
    Choice choice;
    int hidden;

    static size_t shared_bytes(int experts) {
        const size_t sums = size_t(panel_count(experts)) * kTileRows * kRows;
        return (kWarps * sums + size_t(experts) * kRows) * sizeof(float);
    }

    __device__ float row_scale(int row, int lane) const {
        float sum = 0;
        for (int k = 4 * lane; k < hidden; k += 4 * kWarp)
            sum = add_squares(sum, *reinterpret_cast<const float4*>(x + size_t(row) * hidden + k));
        for (int offset = kWarp / 2; offset > 0; offset /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        return norm_scale(sum, hidden, eps);
    }
    // Eight columns of a row, normalised and kept; their operand of each term.
    __device__ void take(int row, int k, float scale, bool valid, uint4 (&operand)[terms]) const {
        uint32_t part[4][terms] = {};
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
            if (!valid) break;
            const int column = k + 2 * pair;
            const float2 v = *reinterpret_cast<const float2*>(x + size_t(row) * hidden + column);
            const float2 n = scaled(v, scale, *reinterpret_cast<const float2*>(norm + column));
            split<terms>(n.x, n.y, part[pair]);
            uint32_t kept[Own::terms];
            split<Own::terms>(n.x, n.y, kept);
#pragma unroll
            for (int term = 0; term < Own::terms; ++term)
                *reinterpret_cast<uint32_t*>(h + row * Own::row_bytes(hidden) +
                                             (size_t(term) * hidden + Own::place(column)) * 2) =
                    kept[term];
        }
#pragma unroll
        for (int term = 0; term < terms; ++term)
            operand[term] = make_uint4(part[0][term], part[1][term], part[2][term], part[3][term]);
    }
    // This warp's tiles of columns times the block's rows: sums[expert][row] of its own.
    __device__ void multiply(int first, const float* scales, float* sums, int lane,
                             int warp) const {
        const int panels = panel_count(choice.experts), tiles = step_count<Bf16Tiles>(hidden);
        float part[kMostPanels][kRowTiles][4] = {};
        for (int tile = warp; tile < tiles; tile += kWarps) {
            uint4 operand[kRowTiles][terms];
#pragma unroll
            for (int n = 0; n < kRowTiles; ++n) {
                const int i = n * kDecodeRows + lane / 4;
                take(first + i, tile * kTileColumns + lane % 4 * 8, scales[i],
                     first + i < choice.rows, operand[n]);
            }
#pragma unroll
            for (int p = 0; p < kMostPanels; ++p) {
                if (p >= panels) break;
                const auto weights = Bf16Tiles::load(panel_of<Bf16Tiles>(gate, 0, p), tile, lane);
                uint32_t a[2][4];
                Bf16Tiles::fragment(weights, 0, a[0]);
                Bf16Tiles::fragment(weights, 1, a[1]);
#pragma unroll
                for (int n = 0; n < kRowTiles; ++n)
                    multiply_terms<terms>(part[p][n], a,
                                          [&](int term) { return operand[n][term]; });
            }
        }
#pragma unroll
        for (int p = 0; p < kMostPanels; ++p) {
            if (p >= panels) break;
#pragma unroll
            for (int n = 0; n < kRowTiles; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    sums[(p * kTileRows + lane / 4 + i / 2 * 8) * kRows + n * kDecodeRows +
                         lane % 4 * 2 + i % 2] = part[p][n][i];
        }
    }
    __device__ void operator()() const {
        __shared__ float scales[kRows];
        const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
        const int first = blockIdx.x * kRows, rows = min(kRows, choice.rows - first);
        const int sums = panel_count(choice.experts) * kTileRows * kRows;
        float* const shares = reinterpret_cast<float*>(shared_memory());
        float* const scores = shares + kWarps * sums;
        for (int i = warp; i < rows; i += kWarps) {
            const float scale = row_scale(first + i, lane);
            if (lane == 0) scales[i] = scale;
        }
        __syncthreads();
        multiply(first, scales, shares + warp * sums, lane, warp);
        __syncthreads();
        for (int i = threadIdx.x; i < choice.experts * kRows; i += kChooseThreads) {
            float sum = 0;
            for (int w = 0; w < kWarps; ++w) sum += shares[w * sums + i];
            scores[i % kRows * choice.experts + i / kRows] = sum + choice.bias[i / kRows];
        }
        __syncthreads();
        Choice own = choice;
        own.scores = scores;
        own.expert += first * choice.top_k;
        own.weight += first * choice.top_k;
        for (int i = warp; i < rows; i += kWarps) choose(own, i, lane);
    }
};

template <class Kernel>
__global__ __launch_bounds__(kChooseThreads) void rows_kernel(Kernel kernel) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    kernel();
}

template <int terms>
void decode(const Device& device, const RouterArgs& a, const Scratch& scratch) {
    Splits splits;
    // At least two: only shares are kept.
    splits.count = max(2, min(a.hidden / kSplitColumns, kMostSplits));
    splits.sums = scratch.split_sums;
    const int most = dense_decode_rows<Bf16Tiles, terms>(device, a.hidden);
    for (int first = 0; first < a.tokens; first += most) {
        const int rows = min(most, a.tokens - first);
        const int pairs = first * a.top_k;
        std::byte* const h = static_cast<std::byte*>(a.h) + first * own_row_bytes<terms>(a.hidden);
        const NormedRows<true> input = {a.x + size_t(first) * a.hidden, nullptr, a.norm, a.eps, h};
        const Choice choice = {nullptr,      scratch.split_sums, a.bias,
                               splits.count, a.expert + pairs,   a.weight + pairs,
                               rows,         a.experts,          a.top_k};
        launch_dense_decode<Bf16Tiles, terms>(
            device, a.gate, input, ChoosingEpilogue{scratch.counters, choice}, splits, rows);
    }
}

template <class Own, int terms, int kRowTiles>
void launch_rows(const Device& device, const RouterArgs& a) {
    using Kernel = RowsKernel<Own, terms, kRowTiles>;
    const Choice choice = {nullptr,  nullptr,  a.bias,    0,      a.expert,
                           a.weight, a.tokens, a.experts, a.top_k};
    const Kernel kernel = {a.x,    a.norm,  a.gate, a.eps, static_cast<std::byte*>(a.h),
                           choice, a.hidden};
    launch(device, rows_kernel<Kernel>, dim3((a.tokens + Kernel::kRows - 1) / Kernel::kRows),
           dim3(kChooseThreads), Kernel::shared_bytes(a.experts), kernel);
}

template <class Own>
void prefill(const Device& device, const RouterArgs& a) {
    // Each block reads the whole gate: more rows a block where that leaves enough of them.
    constexpr int kManyRows = 1024;
    constexpr int terms = Own::terms > kFastTerms ? kExactTerms : kFastTerms;
    if (a.tokens >= kManyRows)
        launch_rows<Own, terms, 2>(device, a);
    else
        launch_rows<Own, terms, 1>(device, a);
}

}  // namespace

void router(const Device& device, Precision precision, const RouterArgs& args,
            const Scratch& scratch) {
    if (args.form == Form::kDecode)
        with_terms(precision, [&](auto terms) { decode<terms()>(device, args, scratch); });
    else
        with_prefill_form(device, precision,
                          [&](auto form) { prefill<decltype(form)>(device, args); });
}

}  // namespace gptoss::cuda

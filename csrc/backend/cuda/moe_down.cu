// Stage moe_down: each chosen expert's down product and bias, their weighted sum, the residual. The
// products of a row's experts come from different blocks; in the decode form the last block of a
// panel adds them, in the prefill form a second kernel: slot by slot, best expert first. Bound as
// moe_up is.
#include "backend/cuda/moe_decode.cuh"
#include "backend/cuda/prefill.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kSumThreads = 256;

struct Sum {
    const float* partial;  // [tokens, top_k, hidden]
    const float* weight;   // [tokens, top_k]
    float* x;              // [tokens, hidden]
    int tokens, hidden, top_k;

    __device__ void add(int t, int row) const {
        float sum = 0;
        for (int slot = 0; slot < top_k; ++slot) {
            const size_t pair = size_t(t) * top_k + slot;
            sum += weight[pair] * __ldcg(partial + pair * hidden + row);
        }
        x[size_t(t) * hidden + row] += sum;
    }
};

struct DownEpilogue {
    const float* bias;  // [experts, hidden]
    float* partial;     // [pairs, hidden]
    unsigned* arrived;  // [panels]
    Sum sum;

    __device__ void put(int expert, int row, int pair, float value) const {
        if (row < sum.hidden)
            partial[size_t(pair) * sum.hidden + row] =
                value + bias[size_t(expert) * sum.hidden + row];
    }
    __device__ void operator()(int expert, int panel, int r, int pair, float low,
                               float high) const {
        put(expert, panel * kTileRows + r, pair, low);
        put(expert, panel * kTileRows + r + 8, pair, high);
    }
    __device__ void finish_panel(int panel, int experts) const {
        if (!arrive_last(arrived + panel, experts)) return;
        for (int i = threadIdx.x; i < sum.tokens * kTileRows; i += kDecodeThreads) {
            const int row = panel * kTileRows + i % kTileRows;
            if (row < sum.hidden) sum.add(i / kTileRows, row);
        }
    }
};

// The prefill form's, four outputs a thread, in the order of Sum::add.
__global__ __launch_bounds__(kSumThreads) void sum_kernel(Sum sum) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int64_t i = (int64_t{blockIdx.x} * kSumThreads + threadIdx.x) * 4;
    if (i >= int64_t{sum.tokens} * sum.hidden) return;
    const int t = static_cast<int>(i / sum.hidden), row = static_cast<int>(i % sum.hidden);
    float4 all = make_float4(0, 0, 0, 0);
    for (int slot = 0; slot < sum.top_k; ++slot) {
        const size_t pair = size_t(t) * sum.top_k + slot;
        const float weight = sum.weight[pair];
        const float4 v =
            __ldcg(reinterpret_cast<const float4*>(sum.partial + pair * sum.hidden + row));
        all.x += weight * v.x;
        all.y += weight * v.y;
        all.z += weight * v.z;
        all.w += weight * v.w;
    }
    auto* const x = reinterpret_cast<float4*>(sum.x + i);
    const float4 before = *x;
    *x = make_float4(before.x + all.x, before.y + all.y, before.z + all.z, before.w + all.w);
}

template <class Rows>
void prefill(const Device& device, const MoeDownArgs& a, const Scratch& scratch) {
    const int pairs = a.tokens * a.top_k;
    const Sum sum = {scratch.partial, a.weight, a.x, a.tokens, a.hidden, a.top_k};
    // A step's moe_down has the expert choice of its moe_up, but need not have had one.
    sort_pairs(device, a.expert, pairs, a.experts, Rows::terms, scratch);
    launch_expert_prefill<Rows>(device, a.matrix, static_cast<const std::byte*>(a.act), 1, pairs,
                                a.experts, scratch,
                                DownEpilogue{a.bias, scratch.partial, nullptr, sum});
    const int threads = a.tokens * (a.hidden / 4);
    launch(device, sum_kernel, dim3((threads + kSumThreads - 1) / kSumThreads), dim3(kSumThreads),
           0, sum);
}

template <int terms>
void decode(const Device& device, const MoeDownArgs& a, const Scratch& scratch) {
    const auto* act = static_cast<const std::byte*>(a.act);
    const int most = moe_decode_tokens<terms>(device, a.inner);
    for (int first = 0; first < a.tokens; first += most) {
        const int tokens = min(most, a.tokens - first), pairs = first * a.top_k;
        const Sum sum = {scratch.partial, a.weight + pairs, a.x + size_t(first) * a.hidden,
                         tokens,          a.hidden,         a.top_k};
        const ExpertRows rows = {a.expert + pairs, act + pairs * own_row_bytes<terms>(a.inner),
                                 tokens * a.top_k, 1};
        launch_moe_decode<terms>(device, a.matrix, rows, tokens,
                                 DownEpilogue{a.bias, scratch.partial, scratch.counters, sum});
    }
}

}  // namespace

void moe_down(const Device& device, Precision precision, const MoeDownArgs& args,
              const Scratch& scratch) {
    if (args.form == Form::kDecode)
        with_terms(precision, [&](auto terms) { decode<terms()>(device, args, scratch); });
    else
        with_prefill_form(device, precision, [&](auto form) {
            prefill<decltype(form)>(device, args, scratch);
        });
}

}  // namespace gptoss::cuda

// Stage moe_down: each chosen expert's down product and bias, their weighted sum, the residual. The
// products of a row's experts come from different blocks; in the decode form the last block that
// ends with a panel adds them, in the prefill form a second kernel: slot by slot, best expert
// first. Bound as moe_up is.
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
#pragma unroll 4
        for (int slot = 0; slot < top_k; ++slot) {
            const size_t pair = size_t(t) * top_k + slot;
            sum += weight[pair] * __ldcg(partial + pair * hidden + row);
        }
        x[size_t(t) * hidden + row] += sum;
    }
};

struct DownEpilogue {
    struct Ready {
        float bias[2];
    };
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    static constexpr int kBlocks = 3;  // with a fourth it spills
#else
    static constexpr int kBlocks = 4;
#endif
    static constexpr bool kChosenBefore = true;
    const float* bias;  // [experts, hidden]
    float* partial;     // [pairs, hidden]
    unsigned* arrived;  // [panels]
    Sum sum;

    __device__ void prefetch(int expert, int panel) const {
        prefetch_l2(bias + size_t(expert) * sum.hidden + panel * kTileRows);
    }
    __device__ Ready prepare(int expert, int panel, int r) const {
        const int row = panel * kTileRows + r;
        const float* b = bias + size_t(expert) * sum.hidden + row;
        return {{row < sum.hidden ? b[0] : 0, row + 8 < sum.hidden ? b[8] : 0}};
    }
    __device__ void operator()(const Ready& ready, int panel, int r, int pair, float low,
                               float high) const {
        const int row = panel * kTileRows + r;
        float* out = partial + size_t(pair) * sum.hidden + row;
        if (row < sum.hidden) out[0] = low + ready.bias[0];
        if (row + 8 < sum.hidden) out[8] = high + ready.bias[1];
    }
    // For all of a block's items at once, since the hand-over is slow.
    __device__ void finish(int begin, int end, int panels, int units) const {
        __shared__ bool last[kDecodeThreads];
#pragma unroll 1
        for (int first = begin; first < end; first += kDecodeThreads) {
            const int items = min(kDecodeThreads, end - first), mine = threadIdx.x;
            __syncthreads();
            if (mine < items) {
                unsigned* counter = arrived + (first + mine) % panels;
                last[mine] = count_arrival(counter) == unsigned(units) - 1;
                if (last[mine]) *counter = 0;
            }
            __syncthreads();
#pragma unroll 1
            for (int i = threadIdx.x; i < items * sum.tokens * kTileRows; i += kDecodeThreads) {
                const int item = i / (sum.tokens * kTileRows);
                const int row = (first + item) % panels * kTileRows + i % kTileRows;
                if (last[item] && row < sum.hidden) sum.add(i / kTileRows % sum.tokens, row);
            }
        }
    }
};

struct PrefillDown : DownEpilogue {
    __device__ Ready prepare(int expert, int panel, int r, int) const {
        return DownEpilogue::prepare(expert, panel, r);
    }
    __device__ void operator()(const Ready& ready, int, int panel, int r, int pair, float low,
                               float high) const {
        DownEpilogue::operator()(ready, panel, r, pair, low, high);
    }
    __device__ void operator()(int expert, int panel, int r, int pair, float low,
                               float high) const {
        DownEpilogue::operator()(DownEpilogue::prepare(expert, panel, r), panel, r, pair, low,
                                 high);
    }
};

// The prefill form's, four outputs a thread, in the order of Sum::add.
__global__ __launch_bounds__(kSumThreads) void sum_kernel(Sum sum) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int i = (blockIdx.x * kSumThreads + threadIdx.x) * 4;
    if (i >= sum.tokens * sum.hidden) return;
    const int t = i / sum.hidden, row = i % sum.hidden;
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
    // Else moe_up has sorted them.
    if (!a.after_up) sort_pairs(device, a.expert, pairs, a.experts, Rows::terms, scratch);
    launch_expert_prefill<Rows>(device, a.matrix, static_cast<const std::byte*>(a.act), 1, pairs,
                                a.experts, scratch,
                                PrefillDown{{a.bias, scratch.partial, nullptr, sum}});
    const int threads = a.tokens * (a.hidden / 4);
    launch(device, sum_kernel, dim3((threads + kSumThreads - 1) / kSumThreads), dim3(kSumThreads),
           0, sum);
}

template <int terms>
void decode(const Device& device, const MoeDownArgs& a, const Scratch& scratch) {
    const Sum sum = {scratch.partial, a.weight, a.x, a.tokens, a.hidden, a.top_k};
    const ExpertRows rows = {a.expert, static_cast<const std::byte*>(a.act), a.tokens * a.top_k, 1};
    launch_moe_decode<terms>(device, a.matrix, rows, a.tokens,
                             DownEpilogue{a.bias, scratch.partial, scratch.counters, sum});
}

}  // namespace

void moe_down(const Device& device, Precision precision, const MoeDownArgs& args,
              const Scratch& scratch) {
    if (args.form == Form::kDecode)
        with_terms(precision, [&](auto terms) { decode<terms()>(device, args, scratch); });
    else
        with_prefill_form(device, precision,
                          [&](auto form) { prefill<decltype(form)>(device, args, scratch); });
}

}  // namespace gptoss::cuda

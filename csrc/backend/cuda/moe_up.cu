// Stage moe_up: each chosen expert's gate and up products, bias and clamped SwiGLU. A panel holds 8
// gates beside their 8 ups, so that the thread with both sums makes the activation. Bound by the
// chosen experts' bytes in the decode form, by the matrix units in the prefill form.
#include "backend/cuda/moe_decode.cuh"
#include "backend/cuda/prefill.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

// min(g, limit) * sigmoid(1.702 min(g, limit)) * (clip(u, -limit, limit) + 1); comparisons that
// keep a NaN.
__device__ __forceinline__ float swiglu(float gate, float up, float limit) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return gate / (1 + expf(-1.702f * gate)) * (up + 1);
}

// The decode form: `act` of f16 terms.
template <int terms>
struct SwigluEpilogue {
    struct Ready {
        float bias[2];
    };
    static constexpr int kBlocks = 3;
    static constexpr bool kChosenBefore = false;  // of the decode form
    const float* bias;  // [experts, 2 inner]   gates and ups in turn, as published
    std::byte* act;
    int inner;
    float limit;

    __device__ const float* bias_of(int expert, int i) const {
        return bias + (size_t(expert) * inner + i) * 2;
    }
    __device__ void prefetch(int expert, int panel) const {
        prefetch_l2(bias_of(expert, panel * 8));
    }
    __device__ Ready prepare(int expert, int panel, int r) const {
        const int i = panel * 8 + r;
        if (i >= inner) return {};
        const float* b = bias_of(expert, i);
        return {{b[0], b[1]}};
    }
    __device__ void operator()(const Ready& ready, int panel, int r, int pair, float gate,
                               float up) const {
        const int i = panel * 8 + r;
        if (i >= inner) return;
        const float value = swiglu(gate + ready.bias[0], up + ready.bias[1], limit);
        uint16_t* out = reinterpret_cast<uint16_t*>(act + pair * own_row_bytes<terms>(inner)) + i;
        uint32_t parts[terms];
        split_f16<terms>(value, 0, parts);
#pragma unroll
        for (int term = 0; term < terms; ++term)
            out[size_t(term) * inner] = static_cast<uint16_t>(parts[term]);
    }
    __device__ void finish(int, int, int, int) const {}
};

// The prefill form: `act` as prefill_form.cuh has it.
template <class Rows>
struct PrefillSwiglu {
    struct Ready {
        float bias[2];
    };
    const float* bias;  // [experts, 2 inner]
    std::byte* act;
    int inner;
    float limit;

    __device__ Ready prepare(int expert, int panel, int r, int) const {
        const int i = panel * 8 + r;
        if (i >= inner) return {};
        const float* b = bias + (size_t(expert) * inner + i) * 2;
        return {{__ldg(b), __ldg(b + 1)}};
    }
    __device__ void operator()(const Ready& ready, int, int panel, int r, int pair, float gate,
                               float up) const {
        const int i = panel * 8 + r;
        if (i >= inner) return;
        uint32_t parts[Rows::terms];
        split<Rows::terms>(swiglu(gate + ready.bias[0], up + ready.bias[1], limit), 0, parts);
        auto* out = reinterpret_cast<uint16_t*>(act + pair * Rows::row_bytes(inner));
#pragma unroll
        for (int term = 0; term < Rows::terms; ++term)
            out[size_t(term) * inner + Rows::place(i)] = static_cast<uint16_t>(parts[term]);
    }
    __device__ void operator()(int expert, int panel, int r, int pair, float gate, float up) const {
        (*this)(prepare(expert, panel, r, pair), expert, panel, r, pair, gate, up);
    }
};

template <class Rows>
void prefill(const Device& device, const MoeUpArgs& a, const Scratch& scratch) {
    const int pairs = a.tokens * a.top_k;
    sort_pairs(device, a.expert, pairs, a.experts, Rows::terms, scratch);
    launch_expert_prefill<Rows>(
        device, a.weight, static_cast<const std::byte*>(a.h), a.top_k, pairs, a.experts, scratch,
        PrefillSwiglu<Rows>{a.bias, static_cast<std::byte*>(a.act), a.inner, a.limit});
}

template <int terms>
void decode(const Device& device, const MoeUpArgs& a) {
    const ExpertRows rows = {a.expert, static_cast<const std::byte*>(a.h), a.tokens * a.top_k,
                             a.top_k};
    launch_moe_decode<terms>(
        device, a.weight, rows, a.tokens,
        SwigluEpilogue<terms>{a.bias, static_cast<std::byte*>(a.act), a.inner, a.limit});
}

}  // namespace

void moe_up(const Device& device, Precision precision, const MoeUpArgs& args,
            const Scratch& scratch) {
    if (args.form == Form::kDecode)
        with_terms(precision, [&](auto terms) { decode<terms()>(device, args); });
    else
        with_prefill_form(device, precision,
                          [&](auto form) { prefill<decltype(form)>(device, args, scratch); });
}

}  // namespace gptoss::cuda

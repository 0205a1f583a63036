// Stage attn_out: product, bias, residual. Bound by the weights' bytes in the decode form, by the
// matrix units in the prefill form.
#include "backend/cuda/dense_decode.cuh"
#include "backend/cuda/prefill.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

struct AttnOutEpilogue {
    // What stands in x, and the bias, of rows r and r + 8.
    struct Ready {
        float before[2], bias[2];
    };
    static constexpr bool kReadyEarly = false, kSplits = false;
    const float* bias;
    float* x;
    int hidden;

    __device__ Ready prepare(int, int panel, int r, int t) const {
        Ready out = {};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = panel * kTileRows + r + 8 * i;
            if (row >= hidden) break;
            out.before[i] = x[size_t(t) * hidden + row];
            out.bias[i] = bias[row];
        }
        return out;
    }
    __device__ void operator()(const Ready& ready, int, int panel, int r, int t, float low,
                               float high) const {
        const int row = panel * kTileRows + r;
        float* out = x + size_t(t) * hidden + row;
        if (row < hidden) out[0] = ready.before[0] + (low + ready.bias[0]);
        if (row + 8 < hidden) out[8] = ready.before[1] + (high + ready.bias[1]);
    }
    // Prefill form.
    __device__ void operator()(int expert, int panel, int r, int t, float low, float high) const {
        (*this)(prepare(expert, panel, r, t), expert, panel, r, t, low, high);
    }
};

template <class Tiles, int terms>
void decode(const Device& device, const AttnOutArgs& a) {
    const int most = dense_decode_rows<Tiles, terms>(device, a.columns);
    for (int first = 0; first < a.tokens; first += most)
        launch_dense_decode<Tiles, terms>(
            device, a.weight, PlainRows{a.attention + size_t(first) * a.columns},
            AttnOutEpilogue{a.bias, a.x + size_t(first) * a.hidden, a.hidden}, Splits{},
            min(most, a.tokens - first));
}

}  // namespace

void attn_out(const Device& device, Precision precision, const AttnOutArgs& args,
              const Scratch& scratch) {
    if (args.form == Form::kDecode) {
        with_dense_terms(args.weight.format, precision, [&](auto tiles, auto terms) {
            decode<decltype(tiles), terms()>(device, args);
        });
        return;
    }
    norm_rows(device, {args.attention, nullptr, 0, args.tokens, args.columns, precision},
              scratch.rows);
    with_prefill_form(device, precision, [&](auto form) {
        launch_dense_prefill<decltype(form)>(device, args.weight, scratch.rows, args.tokens,
                                             AttnOutEpilogue{args.bias, args.x, args.hidden});
    });
}

}  // namespace gptoss::cuda

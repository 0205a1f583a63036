// Stage attn_out: product, bias, residual. In the decode form two blocks share a panel, since the
// panels alone would leave the device half idle in its last round. Bound by the weights' bytes in
// the decode form, by the matrix units in the prefill form.
#include "backend/cuda/dense_decode.cuh"
#include "backend/cuda/prefill.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kSplitColumns = 1024;  // fewer are not worth a second block

struct AttnOutEpilogue {
    const float* bias;
    float* x;
    int hidden;

    __device__ void add(int row, int t, float value) const {
        if (row < hidden) x[size_t(t) * hidden + row] += value + bias[row];
    }
    __device__ void operator()(int, int panel, int r, int t, float low, float high) const {
        add(panel * kTileRows + r, t, low);
        add(panel * kTileRows + r + 8, t, high);
    }
    __device__ void finish() const {}
};

template <int terms>
void decode(const Device& device, const AttnOutArgs& a, const Scratch& scratch) {
    Splits splits;
    splits.count = a.columns >= 2 * kSplitColumns ? 2 : 1;
    splits.sums = scratch.split_sums;
    splits.arrived = scratch.counters;
    const int most = dense_decode_rows<terms>(device, a.columns);
    for (int first = 0; first < a.tokens; first += most)
        launch_dense_decode<terms>(
            device, a.weight, PlainRows{a.attention + size_t(first) * a.columns},
            AttnOutEpilogue{a.bias, a.x + size_t(first) * a.hidden, a.hidden}, splits,
            min(most, a.tokens - first));
}

}  // namespace

void attn_out(const Device& device, Precision precision, const AttnOutArgs& args,
              const Scratch& scratch) {
    if (args.form == Form::kDecode) {
        with_terms(precision, [&](auto terms) { decode<terms()>(device, args, scratch); });
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

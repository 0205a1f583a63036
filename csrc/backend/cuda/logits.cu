// Stage logits: norm and product of the rows asked for, always in the decode form: the largest
// matrix of the model, streamed once for up to 8 rows. Bound by its bytes.
#include "backend/cuda/dense_decode.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

struct LogitsEpilogue {
    struct Ready {};
    static constexpr bool kReadyEarly = true, kSplits = false;
    float* logits;
    int vocab;

    __device__ Ready prepare(int, int, int, int) const { return {}; }
    __device__ void operator()(Ready, int, int panel, int r, int i, float low, float high) const {
        const int row = panel * kTileRows + r;
        float* out = logits + size_t(i) * vocab;
        if (row < vocab) out[row] = low;
        if (row + 8 < vocab) out[row + 8] = high;
    }
};

template <class Tiles, int terms>
void run(const Device& device, const LogitsArgs& a) {
    const int most = dense_decode_rows<Tiles, terms>(device, a.hidden);
    for (int first = 0; first < a.outputs; first += most)
        launch_dense_decode<Tiles, terms>(
            device, a.weight, NormedRows<false>{a.x, a.row + first, a.norm, a.eps},
            LogitsEpilogue{a.logits + size_t(first) * a.vocab, a.vocab}, Splits{},
            min(most, a.outputs - first));
}

}  // namespace

void logits(const Device& device, Precision precision, const LogitsArgs& args) {
    with_dense_terms(args.weight.format, precision,
                     [&](auto tiles, auto terms) { run<decltype(tiles), terms()>(device, args); });
}

}  // namespace gptoss::cuda

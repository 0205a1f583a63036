// Stage qkv: norm, product, bias, rope, keys and values into the cache, all in one kernel in the
// decode form. A panel holds 8 dimensions beside the 8 that rope rotates them with, so that the
// thread with their sums rotates and stores them. Bound by the weights' bytes in the decode form,
// by the matrix units in the prefill form.
#include "backend/cuda/cache.cuh"
#include "backend/cuda/dense_decode.cuh"
#include "backend/cuda/prefill.cuh"
#include "backend/cuda/stage_kernels.h"
#include "backend/kv_slot.h"

namespace gptoss::cuda {
namespace {

struct QkvEpilogue {
    const Row* rows;
    const float* bias;
    const float* inv_freq;
    float concentration;
    KvLayer kv;
    float* q;
    int heads, kv_heads, head_dim;

    // The angle is a float32 product, as published; far positions feel its rounding. Cosine and
    // sine follow in turns, where reducing the argument costs nothing.
    __device__ void rotate(float& low, float& high, int position, int d) const {
        constexpr double kTurnsPerRadian = 0.15915494309189533577;
        const float angle = __fmul_rn(static_cast<float>(position), inv_freq[d]);
        const double turns = static_cast<double>(angle) * kTurnsPerRadian;
        float sine, cosine;
        sincospif(static_cast<float>(2 * (turns - rint(turns))), &sine, &cosine);
        sine *= concentration;
        cosine *= concentration;
        const float first = low, second = high;
        low = first * cosine - second * sine;
        high = second * cosine + first * sine;
    }

    __device__ void operator()(int, int panel, int r, int t, float low, float high) const {
        const int panels = head_dim / kTileRows, half = head_dim / 2;
        const int head = panel / panels, d = panel % panels * 8 + r;
        const Row row = rows[t];
        low += bias[head * head_dim + d];
        high += bias[head * head_dim + d + half];
        if (head < heads + kv_heads) rotate(low, high, row.position, d);
        if (head < heads) {
            float* out = q + (size_t(t) * heads + head) * head_dim + d;
            out[0] = low;
            out[half] = high;
            return;
        }
        const bool value = head >= heads + kv_heads;
        const int kv_head = (head - heads) % kv_heads;
        const KvSlot slot = kv_slot(*row.kv, kv, row.position, kv_head, kv_heads, head_dim);
        std::byte* const at = value ? slot.value_tile : slot.key_tile;
        store_kv(at, kv.type, d, low);
        store_kv(at, kv.type, d + half, high);
    }
    __device__ void finish() const {}
};

template <int terms>
void decode(const Device& device, const QkvArgs& a, const QkvEpilogue& epilogue) {
    const int most = dense_decode_rows<terms>(device, a.hidden);
    for (int first = 0; first < a.tokens; first += most) {
        QkvEpilogue part = epilogue;
        part.rows += first;
        part.q += size_t(first) * a.heads * a.head_dim;
        const NormedRows rows = {a.x + size_t(first) * a.hidden, nullptr, a.norm, a.eps, nullptr};
        launch_dense_decode<terms>(device, a.weight, rows, part, Splits{},
                                   min(most, a.tokens - first));
    }
}

}  // namespace

void qkv(const Device& device, Precision precision, const QkvArgs& args, const Scratch& scratch) {
    const QkvEpilogue epilogue = {args.rows, args.bias, args.inv_freq, args.concentration,
                                  args.kv,   args.q,    args.heads,    args.kv_heads,
                                  args.head_dim};
    if (args.form == Form::kDecode) {
        with_terms(precision, [&](auto terms) { decode<terms()>(device, args, epilogue); });
        return;
    }
    norm_rows(device, {args.x, args.norm, args.eps, args.tokens, args.hidden, precision},
              scratch.rows);
    with_prefill_form(device, precision, [&](auto form) {
        launch_dense_prefill<decltype(form)>(device, args.weight, scratch.rows, args.tokens,
                                             epilogue);
    });
}

}  // namespace gptoss::cuda

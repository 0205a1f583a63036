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
    // Of dimensions d and d + head_dim / 2 of a head.
    struct Ready {
        float bias[2];
        float cosine, sine;  // 1 and 0 where nothing is rotated
        std::byte* kept;     // where the first goes; null: it is a query's
    };
    static constexpr bool kReadyEarly = true, kSplits = false;
    const Row* rows;
    const float* bias;
    const float* inv_freq;
    float concentration;
    KvLayer kv;
    float* q;
    int heads, kv_heads, head_dim;

    // The angle is a float32 product, as published; far positions feel its rounding. Cosine and
    // sine follow in turns, where reducing the argument costs nothing.
    __device__ void turn(Ready& out, int position, int d) const {
        constexpr double kTurnsPerRadian = 0.15915494309189533577;
        const float angle = __fmul_rn(static_cast<float>(position), inv_freq[d]);
        const double turns = static_cast<double>(angle) * kTurnsPerRadian;
        sincospif(static_cast<float>(2 * (turns - rint(turns))), &out.sine, &out.cosine);
        out.sine *= concentration;
        out.cosine *= concentration;
    }

    __device__ int head_of(int panel) const { return panel / (head_dim / kTileRows); }
    __device__ int dimension_of(int panel, int r) const {
        return panel % (head_dim / kTileRows) * 8 + r;
    }

    __device__ Ready prepare(int, int panel, int r, int t) const {
        const int head = head_of(panel), d = dimension_of(panel, r);
        const Row row = rows[t];
        Ready out = {};
        out.bias[0] = bias[head * head_dim + d];
        out.bias[1] = bias[head * head_dim + d + head_dim / 2];
        out.cosine = 1;
        if (head < heads + kv_heads) turn(out, row.position, d);
        if (head < heads) return out;
        const bool value = head >= heads + kv_heads;
        const int kv_head = (head - heads) % kv_heads;
        const KvSlot slot = kv_slot(*row.kv, kv, row.position, kv_head, kv_heads, head_dim);
        out.kept = value ? slot.value_tile : slot.key_tile;
        return out;
    }

    __device__ void operator()(const Ready& ready, int, int panel, int r, int t, float low,
                               float high) const {
        const int head = head_of(panel), d = dimension_of(panel, r), half = head_dim / 2;
        low += ready.bias[0];
        high += ready.bias[1];
        if (head < heads + kv_heads) {
            const float first = low, second = high;
            low = first * ready.cosine - second * ready.sine;
            high = second * ready.cosine + first * ready.sine;
        }
        if (head < heads) {
            float* out = q + (size_t(t) * heads + head) * head_dim + d;
            out[0] = low;
            out[half] = high;
            return;
        }
        store_kv(ready.kept, kv.type, d, low);
        store_kv(ready.kept, kv.type, d + half, high);
    }
    // Prefill form.
    __device__ void operator()(int expert, int panel, int r, int t, float low, float high) const {
        (*this)(prepare(expert, panel, r, t), expert, panel, r, t, low, high);
    }
};

template <class Tiles, int terms>
void decode(const Device& device, const QkvArgs& a, const QkvEpilogue& epilogue) {
    const int most = dense_decode_rows<Tiles, terms>(device, a.hidden);
    for (int first = 0; first < a.tokens; first += most) {
        QkvEpilogue part = epilogue;
        part.rows += first;
        part.q += size_t(first) * a.heads * a.head_dim;
        const NormedRows<false> rows = {a.x + size_t(first) * a.hidden, nullptr, a.norm, a.eps};
        launch_dense_decode<Tiles, terms>(device, a.weight, rows, part, Splits{},
                                          min(most, a.tokens - first));
    }
}

}  // namespace

void qkv(const Device& device, Precision precision, const QkvArgs& args, const Scratch& scratch) {
    const QkvEpilogue epilogue = {args.rows, args.bias,  args.inv_freq, args.concentration, args.kv,
                                  args.q,    args.heads, args.kv_heads, args.head_dim};
    if (args.form == Form::kDecode) {
        with_dense_terms(args.weight.format, precision, [&](auto tiles, auto terms) {
            decode<decltype(tiles), terms()>(device, args, epilogue);
        });
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

// Attention of single rows in float32: what a warp does with its keys of a unit. head_dim / 8 lanes
// hold a key, eight dimensions each, and read what they have copied themselves. Scores are summed
// so that each lane ends with those of one or two heads; the softmax runs over the warp's keys.
#pragma once

#include "backend/cuda/attention_fetch.cuh"

namespace gptoss::cuda::decode_attention {

// Adds over the lanes whose numbers differ in the bits from `offset` down to `least`. Of `count`
// values each lane is left with its share, which the highest of those bits halves first.
template <int count, int offset, int least, int size>
__device__ __forceinline__ void scatter_sum(float (&values)[size], int lane) {
    constexpr int half = count / 2;
    const bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < half; ++i) {
        const float give = upper ? values[i] : values[i + half];
        const float keep = upper ? values[i + half] : values[i];
        values[i] = keep + __shfl_xor_sync(kAllLanes, give, offset);
    }
    if constexpr (offset > least) scatter_sum<half, offset / 2, least>(values, lane);
}

__device__ __forceinline__ void read_eight(float (&out)[kLaneDims], const std::byte* staged) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float4 v = *reinterpret_cast<const float4*>(staged + i * kWarp * 16);
        out[4 * i] = v.x;
        out[4 * i + 1] = v.y;
        out[4 * i + 2] = v.z;
        out[4 * i + 3] = v.w;
    }
}

// A warp's softmax over its keys so far. A lane has eight dimensions of its own keys' weighted
// values for all heads, and the state of the heads whose scores it holds.
template <int head_dim>
struct FloatSoftmax {
    using S = Stage<float, head_dim>;
    static constexpr int kLaneValues = kGroupHeads * kLaneDims;

    float q[kLaneValues], out[kLaneValues];  // [head][dimension]
    float max[S::kOwned], sum[S::kOwned];

    __device__ __forceinline__ void begin(const AttentionArgs& a, const Piece& piece, int lane) {
        const size_t head = size_t(piece.row) * a.heads + piece.first_head;
        const float* from = a.q + head * head_dim + lane % S::kLanes * kLaneDims;
#pragma unroll
        for (int i = 0; i < kLaneValues; i += 4) {
            const int h = i / kLaneDims;
            float4 v = make_float4(0, 0, 0, 0);
            if (h < piece.heads)
                v = *reinterpret_cast<const float4*>(from + h * head_dim + i % kLaneDims);
            q[i] = v.x * kScoreScale<head_dim>;
            q[i + 1] = v.y * kScoreScale<head_dim>;
            q[i + 2] = v.z * kScoreScale<head_dim>;
            q[i + 3] = v.w * kScoreScale<head_dim>;
            out[i] = out[i + 1] = out[i + 2] = out[i + 3] = 0;
        }
#pragma unroll
        for (int r = 0; r < S::kOwned; ++r) {
            max[r] = kLowest;
            sum[r] = 0;
        }
    }

    // A block of keys and values; only the first `keys` of them are the row's.
    __device__ __forceinline__ void add(const std::byte* staged, int keys, int lane) {
        float score[S::kPasses][S::kOwned];
#pragma unroll
        for (int p = 0; p < S::kPasses; ++p) {
            float key[kLaneDims], dot[kGroupHeads];
            read_eight(key, staged + S::place(p * S::kKeyParts, lane));
#pragma unroll
            for (int h = 0; h < kGroupHeads; ++h) {
                dot[h] = q[h * kLaneDims] * key[0];
#pragma unroll
                for (int d = 1; d < kLaneDims; ++d)
                    dot[h] = fmaf(q[h * kLaneDims + d], key[d], dot[h]);
            }
            scatter_sum<kGroupHeads, S::kLanes / 2, 1>(dot, lane);
            const bool seen = p * S::kKeys + lane / S::kLanes < keys;
#pragma unroll
            for (int r = 0; r < S::kOwned; ++r) score[p][r] = seen ? dot[r] : hidden_score();
        }
        weigh(score);
#pragma unroll
        for (int p = 0; p < S::kPasses; ++p) {
            float value[kLaneDims];
            read_eight(value, staged + S::kHalfBytes + S::place(p * S::kKeyParts, lane));
#pragma unroll
            for (int h = 0; h < kGroupHeads; ++h) {
                const int owner = lane / S::kLanes * S::kLanes + h / S::kOwned;
                const float weight = __shfl_sync(kAllLanes, score[p][h % S::kOwned], owner);
#pragma unroll
                for (int d = 0; d < kLaneDims; ++d)
                    out[h * kLaneDims + d] = fmaf(weight, value[d], out[h * kLaneDims + d]);
            }
        }
    }

    // Scores to weights, and what is there already relative to the new maxima.
    __device__ __forceinline__ void weigh(float (&score)[S::kPasses][S::kOwned]) {
        float scale[S::kOwned];
        bool rises = false;
#pragma unroll
        for (int r = 0; r < S::kOwned; ++r) {
            float top = score[0][r];
#pragma unroll
            for (int p = 1; p < S::kPasses; ++p) top = fmaxf(top, score[p][r]);
#pragma unroll
            for (int offset = S::kLanes; offset < kWarp; offset *= 2)
                top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
            top = fmaxf(top, max[r]);
            scale[r] = exp2f(max[r] - top);
            max[r] = top;
            sum[r] *= scale[r];
#pragma unroll
            for (int p = 0; p < S::kPasses; ++p) {
                score[p][r] = exp2f(score[p][r] - top);
                sum[r] += score[p][r];
            }
            rises |= scale[r] != 1;
        }
        if (!__any_sync(kAllLanes, rises)) return;
#pragma unroll
        for (int h = 0; h < kGroupHeads; ++h) {
            const float factor = __shfl_sync(kAllLanes, scale[h % S::kOwned], h / S::kOwned);
#pragma unroll
            for (int d = 0; d < kLaneDims; ++d) out[h * kLaneDims + d] *= factor;
        }
    }

    // Adds up over the lanes that held different keys.
    __device__ __forceinline__ void finish(Partial<head_dim>& to, int lane) {
        constexpr int kept = kLaneValues / S::kKeys;
        scatter_sum<kLaneValues, kWarp / 2, S::kLanes>(out, lane);
#pragma unroll
        for (int i = 0; i < kept; i += 4) {
            const int head = lane / S::kLanes * (kept / kLaneDims) + i / kLaneDims;
            float* at = to.out[head] + lane % S::kLanes * kLaneDims + i % kLaneDims;
            *reinterpret_cast<float4*>(at) =
                make_float4(out[i], out[i + 1], out[i + 2], out[i + 3]);
        }
#pragma unroll
        for (int r = 0; r < S::kOwned; ++r) {
#pragma unroll
            for (int offset = S::kLanes; offset < kWarp; offset *= 2)
                sum[r] += __shfl_xor_sync(kAllLanes, sum[r], offset);
            if (lane >= S::kLanes) continue;
            to.max[lane * S::kOwned + r] = max[r];
            to.sum[lane * S::kOwned + r] = sum[r];
        }
    }
};

}  // namespace gptoss::cuda::decode_attention

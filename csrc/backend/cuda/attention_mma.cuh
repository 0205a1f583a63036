// Attention of single rows on the matrix units: what a warp does with its keys of a unit, of a
// cache of 16 bits or fewer. See attention_decode.cu.
//
// The 16 rows of a product are two float16 terms each of eight heads' queries, and then of their
// weights: row g and row g + 8 of head g, whose sums one lane adds. (Lane = 4 g + t, as in
// ptx.cuh.)
//
// The columns that a product sums over may come in any order, if both operands have the same, and
// so may the dimensions of its results. A lane therefore takes what lies together in memory.
#pragma once

#include <cstring>
#include <type_traits>

#include "backend/cuda/attention_fetch.cuh"
#include "backend/cuda/attention_terms.cuh"
#include "backend/cuda/cache.cuh"

namespace gptoss::cuda::decode_attention {

// A warp's softmax over its keys so far.
template <class T, int head_dim>
struct MatrixSoftmax {
    using S = Stage<T, head_dim>;
    static_assert(kGroupHeads == 8 && S::kBlockKeys == 16);
    static constexpr int kDepths = head_dim / 16;  // products of a key
    static constexpr int kColumns = head_dim / 8;  // tiles of a value, and dimensions of a lane

    uint32_t q[kDepths][4];
    float out[kColumns][4];
    float inverse;   // of q's scale
    float max, sum;  // of head g; sum: of this lane's weights, kMostWeight times too large

    // The first of the four dimensions that lane t has of product `depth`: of a key's parts of 16
    // bytes, or of 8 where it has no four, a lane has every fourth.
    static __device__ __forceinline__ int dimension(int depth, int t) {
        constexpr int kTogether = (S::kRowParts >= 4 ? 16 : 8) / sizeof(T);
        constexpr int kDepthsTogether = kTogether / 4;
        return (depth / kDepthsTogether * 4 + t) * kTogether + depth % kDepthsTogether * 4;
    }

    __device__ __forceinline__ void begin(const AttentionArgs& a, const Piece& piece, int lane) {
        const int head = lane / 4;
        const float* from =
            a.q + (size_t(piece.row) * a.heads + piece.first_head + head) * head_dim;
        float4 v[kDepths];
        float top = 0;
#pragma unroll
        for (int d = 0; d < kDepths; ++d) {
            v[d] = make_float4(0, 0, 0, 0);
            if (head < piece.heads)
                v[d] = *reinterpret_cast<const float4*>(from + dimension(d, lane % 4));
            v[d].x *= kScoreScale<head_dim>;
            v[d].y *= kScoreScale<head_dim>;
            v[d].z *= kScoreScale<head_dim>;
            v[d].w *= kScoreScale<head_dim>;
            top = fmaxf(top, fmaxf(fmaxf(fabsf(v[d].x), fabsf(v[d].y)),
                                   fmaxf(fabsf(v[d].z), fabsf(v[d].w))));
        }
        const QueryScale by(top);
        inverse = by.inverse;
#pragma unroll
        for (int d = 0; d < kDepths; ++d) {
            split_f16(v[d].x * by.scale, v[d].y * by.scale, q[d][0], q[d][1]);
            split_f16(v[d].z * by.scale, v[d].w * by.scale, q[d][2], q[d][3]);
        }
#pragma unroll
        for (int n = 0; n < kColumns; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0;
        max = kLowest;
        sum = 0;
    }

    // A block of keys and values; only the first `keys` of them are the row's.
    __device__ __forceinline__ void add(const std::byte* staged, int keys, int lane) {
        float weight[4];  // of keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            uint2 b[kDepths];
            read_key(b, staged, 8 * n + lane / 4, lane % 4);
            float score[4] = {};
#pragma unroll
            for (int d = 0; d < kDepths; ++d) mma_f16(score, q[d], b[d].x, b[d].y);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const bool seen = 8 * n + lane % 4 * 2 + i < keys;
                const float both = (score[i] + score[2 + i]) * inverse;
                weight[2 * n + i] = seen ? both : hidden_score();
            }
        }
        weigh(weight);
        uint32_t w[4];
        split_f16(weight[0], weight[1], w[0], w[1]);
        split_f16(weight[2], weight[3], w[2], w[3]);
        uint32_t v[4][kColumns / 2];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            read_value(v[i], staged + S::kHalfBytes, i / 2 * 8 + lane % 4 * 2 + i % 2, lane / 4);
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
            const unsigned halves = n % 2 ? 0x7632 : 0x5410;
            mma_f16(out[n], w, __byte_perm(v[0][n / 2], v[1][n / 2], halves),
                    __byte_perm(v[2][n / 2], v[3][n / 2], halves));
        }
    }

    // Scores to weights, and what is there already relative to the new maximum.
    __device__ __forceinline__ void weigh(float (&score)[4]) {
        const float top =
            fmaxf(max, row_max(fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]))));
        const float scale = power_of_two(max - top);
        max = top;
        sum *= scale;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            score[i] = power_of_two(score[i] - top) * kMostWeight;
            sum += score[i];
        }
        if (!__any_sync(kAllLanes, scale != 1)) return;
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) out[n][i] *= scale;
        }
    }

    // A key's parts for lane t: two pairs of dimensions of each product.
    static __device__ __forceinline__ void read_key(uint2 (&out)[kDepths], const std::byte* keys,
                                                    int key, int t) {
        if constexpr (sizeof(T) == 2) {
#pragma unroll
            for (int i = 0; i < kDepths; i += 2) {
                const std::byte* at = keys + S::at(key, (i / 2 * 4 + t) * 16);
                const uint4 v = *reinterpret_cast<const uint4*>(at);
                out[i] = make_uint2(v.x, v.y);
                out[i + 1] = make_uint2(v.z, v.w);
            }
        } else if constexpr (kDepths == 4) {
            const uint4 v = *reinterpret_cast<const uint4*>(keys + S::at(key, t * 16));
            out[0] = widen_fp8(v.x);
            out[1] = widen_fp8(v.y);
            out[2] = widen_fp8(v.z);
            out[3] = widen_fp8(v.w);
        } else {
            const uint2 v = *reinterpret_cast<const uint2*>(keys + S::at(key, t * 8));
            out[0] = widen_fp8(v.x);
            out[1] = widen_fp8(v.y);
        }
    }

    // A value's dimensions kColumns g and on, in pairs.
    static __device__ __forceinline__ void read_value(uint32_t (&out)[kColumns / 2],
                                                      const std::byte* values, int key, int g) {
        constexpr int kLoadBytes = kColumns * sizeof(T);
        const std::byte* at = values + S::at(key, g * kLoadBytes);
        using Load = std::conditional_t<kLoadBytes == 16, uint4,
                                        std::conditional_t<kLoadBytes == 8, uint2, uint32_t>>;
        const Load loaded = *reinterpret_cast<const Load*>(at);
        uint32_t words[kLoadBytes / 4];
        memcpy(words, &loaded, kLoadBytes);
#pragma unroll
        for (int i = 0; i < kLoadBytes / 4; ++i) {
            if constexpr (sizeof(T) == 2) {
                out[i] = words[i];
            } else {
                const uint2 pairs = widen_fp8(words[i]);
                out[2 * i] = pairs.x;
                out[2 * i + 1] = pairs.y;
            }
        }
    }

    __device__ __forceinline__ void finish(Partial<head_dim>& to, int lane) {
        const int head = lane / 4, t = lane % 4;
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float* const at = to.out[head] + (2 * t + i) * kColumns;
#pragma unroll
            for (int n = 0; n < kColumns; n += 4) {
                float v[4];
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    v[j] = (out[n + j][i] + out[n + j][2 + i]) * (1 / kMostWeight);
                *reinterpret_cast<float4*>(at + n) = make_float4(v[0], v[1], v[2], v[3]);
            }
        }
        if (t > 0) return;
        to.max[head] = max;
        to.sum[head] = sum * (1 / kMostWeight);
    }
};

}  // namespace gptoss::cuda::decode_attention

// Attention of single rows: parts of a row's keys to one. See attention_decode.cu.
#pragma once

#include "backend/cuda/attention_warp.cuh"

namespace gptoss::cuda::decode_attention {

// In a warp's part of shared memory once its keys are done.
struct Merge {
    float weight[kGroupHeads][kMostUnits];
    float total[kGroupHeads];
    int last;
};

__device__ __forceinline__ float sink_of(const AttentionArgs& a, const Piece& piece, int head) {
    return head < piece.heads ? a.sinks[piece.first_head + head] * kLog2E : 0.0f;
}

__device__ __forceinline__ void add_scaled(float4& sum, float factor, float4 v) {
    sum.x = fmaf(factor, v.x, sum.x);
    sum.y = fmaf(factor, v.y, sum.y);
    sum.z = fmaf(factor, v.z, sum.z);
    sum.w = fmaf(factor, v.w, sum.w);
}

__device__ __forceinline__ void store_head(const AttentionArgs& a, const Piece& piece, int head,
                                           int head_dim, int dimension, float4 v, float factor) {
    if (head >= piece.heads) return;
    const size_t at = size_t(piece.row) * a.heads + piece.first_head + head;
    *reinterpret_cast<float4*>(a.out + at * head_dim + dimension) =
        make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
}

// The warps' parts of a unit to one: the row's result if there are no other units, else to
// scratch. Four dimensions of a head a thread.
template <int head_dim>
__device__ __forceinline__ void merge_warps(const AttentionArgs& a, const Piece& piece,
                                            const std::byte* shared, Partial<head_dim>* units) {
    const int head = threadIdx.x / (head_dim / 4), dimension = threadIdx.x % (head_dim / 4) * 4;
    if (head >= kGroupHeads) return;
    const auto part = [&](int warp) {
        return reinterpret_cast<const Partial<head_dim>*>(shared + warp * kWarpBytes);
    };
    float top = part(0)->max[head];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) top = fmaxf(top, part(w)->max[head]);
    float sum = 0;
    float4 out = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
        const float factor = exp2f(part(w)->max[head] - top);
        sum = fmaf(factor, part(w)->sum[head], sum);
        add_scaled(out, factor, *reinterpret_cast<const float4*>(&part(w)->out[head][dimension]));
    }
    if (piece.units == 1) {
        const float sink = sink_of(a, piece, head), all = fmaxf(top, sink);
        const float factor = exp2f(top - all);
        const float total = fmaf(factor, sum, exp2f(sink - all));
        store_head(a, piece, head, head_dim, dimension, out, factor / total);
        return;
    }
    Partial<head_dim>& to = units[piece.unit];
    *reinterpret_cast<float4*>(&to.out[head][dimension]) = out;
    if (dimension == 0) {
        to.max[head] = top;
        to.sum[head] = sum;
    }
}

// All units of a row and group of heads, and the sink: first the units' weights, sixteen threads
// a head, then sums that wait for nothing but memory.
template <int head_dim>
__device__ __forceinline__ void merge_units(const AttentionArgs& a, const Piece& piece,
                                            const Partial<head_dim>* units, Merge& merge) {
    {
        constexpr int kThreadsPerHead = kThreads / kGroupHeads;
        const int head = threadIdx.x / kThreadsPerHead, first = threadIdx.x % kThreadsPerHead;
        const float sink = sink_of(a, piece, head);
        float top = fmaxf(kLowest, sink);
        for (int u = first; u < piece.units; u += kThreadsPerHead)
            top = fmaxf(top, units[u].max[head]);
#pragma unroll
        for (int offset = 1; offset < kThreadsPerHead; offset *= 2)
            top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
        float total = 0;
        for (int u = first; u < piece.units; u += kThreadsPerHead) {
            const float weight = exp2f(units[u].max[head] - top);
            merge.weight[head][u] = weight;
            total = fmaf(weight, units[u].sum[head], total);
        }
#pragma unroll
        for (int offset = 1; offset < kThreadsPerHead; offset *= 2)
            total += __shfl_xor_sync(kAllLanes, total, offset);
        if (first == 0) merge.total[head] = total + exp2f(sink - top);
    }
    __syncthreads();
    const int head = threadIdx.x / (head_dim / 4), dimension = threadIdx.x % (head_dim / 4) * 4;
    if (head >= kGroupHeads) return;
    float4 out = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int u = 0; u < piece.units; ++u)
        add_scaled(out, merge.weight[head][u],
                   *reinterpret_cast<const float4*>(&units[u].out[head][dimension]));
    store_head(a, piece, head, head_dim, dimension, out, 1 / merge.total[head]);
}

}  // namespace gptoss::cuda::decode_attention

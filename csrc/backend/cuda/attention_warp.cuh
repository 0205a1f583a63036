// Attention of single rows: a warp's way through its keys of a unit. See attention_decode.cu.
#pragma once

#include "backend/cuda/attention_float.cuh"
#include "backend/cuda/attention_mma.cuh"

namespace gptoss::cuda::decode_attention {

// What of a kernel may come before the kernels it follows have ended: that which the qkv kernel
// just before it does not write. It starts once that one has its own input (let_next_kernel_start),
// when all kernels before have ended: keys and values of earlier positions are in memory.
struct Start {
    bool waited = false;

    __device__ __forceinline__ void wait() {
        if (waited) return;
        wait_for_earlier_kernels();
        let_next_kernel_start();
        waited = true;
    }
};

template <class T, int head_dim>
using Softmax = std::conditional_t<std::is_same_v<T, float>, FloatSoftmax<head_dim>,
                                   MatrixSoftmax<T, head_dim>>;

// This warp's keys of the unit: every fourth block.
template <class T, int head_dim>
__device__ __forceinline__ void attend(const AttentionArgs& a, const Piece& piece,
                                       std::byte* shared, Start& start) {
    using F = Fetch<T, head_dim>;
    constexpr int kBlockKeys = Stage<T, head_dim>::kBlockKeys;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    F fetch(a, piece, piece.begin + warp * kBlockKeys);
#pragma unroll 1
    for (int i = 0; i < F::kStages; ++i) {
        if (fetch.next + kBlockKeys > piece.first_new) start.wait();
        fetch.block(a, piece, shared + i * F::kStageBytes, lane);
    }
    start.wait();
    Softmax<T, head_dim> softmax;
    softmax.begin(a, piece, lane);
    for (int stage = 0;; stage = stage + 1 < F::kStages ? stage + 1 : 0) {
        const int keys = piece.end - (fetch.next - F::kStages * F::kStride);
        if (keys <= 0) break;
        copy_async_wait<F::kStages - 1>();
        __syncwarp();  // other lanes' copies are there
        softmax.add(shared + stage * F::kStageBytes, keys, lane);
        __syncwarp();  // and read
        fetch.block(a, piece, shared + stage * F::kStageBytes, lane);
    }
    copy_async_wait<0>();
    __syncwarp();
    softmax.finish(*reinterpret_cast<Partial<head_dim>*>(shared), lane);
}

}  // namespace gptoss::cuda::decode_attention

// The read and the copy rate: every block takes its stretch of memory, eight 16-byte loads of a
// thread under way.
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 8;
constexpr int kBlocksAMultiprocessor = 8;

// use(i, value) for every 16-byte piece.
template <class Use>
__device__ __forceinline__ void load_pieces(const std::byte* data, size_t pieces, Use use) {
    const size_t stride = size_t(gridDim.x) * kThreads;
    for (size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x; i < pieces; i += stride * kLoads) {
        uint4 v[kLoads];
#pragma unroll
        for (int n = 0; n < kLoads; ++n) {
            const size_t at = i + n * stride;
            v[n] = load_once_16(data + (at < pieces ? at : i) * 16);
        }
#pragma unroll
        for (int n = 0; n < kLoads; ++n)
            if (i + n * stride < pieces) use(i + n * stride, v[n]);
    }
}

__global__ __launch_bounds__(kThreads) void read_kernel(const std::byte* data, size_t pieces,
                                                        float* out) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t all = 0;
    load_pieces(data, pieces, [&](size_t, uint4 v) { all ^= v.x ^ v.y ^ v.z ^ v.w; });
    // Nothing else would keep the loads.
    if (all == 0x12345678u) out[0] = 1;
}

__global__ __launch_bounds__(kThreads) void copy_kernel(const std::byte* from, std::byte* to,
                                                        size_t pieces) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    load_pieces(from, pieces, [&](size_t i, uint4 v) { reinterpret_cast<uint4*>(to)[i] = v; });
}

}  // namespace

void copy_memory(const Device& device, const std::byte* from, std::byte* to, size_t bytes) {
    launch(device, copy_kernel, dim3(device.multiprocessors * kBlocksAMultiprocessor),
           dim3(kThreads), 0, from, to, bytes / 16);
}

void read_memory(const Device& device, const std::byte* data, size_t bytes, float* out) {
    launch(device, read_kernel, dim3(device.multiprocessors * kBlocksAMultiprocessor),
           dim3(kThreads), 0, data, bytes / 16, out);
}

}  // namespace gptoss::cuda

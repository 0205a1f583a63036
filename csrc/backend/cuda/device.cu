#include "backend/cuda/device.h"

#include "base/error.h"

namespace gptoss::cuda {

void check(cudaError_t status, const char* doing) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // what can be forgotten is
    const std::string text =
        message(doing, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
    if (status == cudaErrorMemoryAllocation) throw OutOfMemory(text);
    throw DeviceError(text);
}

void allow_shared(const Device& device, const void* kernel, size_t shared_bytes) {
    constexpr size_t kAlwaysAllowed = 48 * 1024 - kStaticShared;
    // A multiprocessor changes its share of shared memory only when it is idle: kernels that want
    // different ones could not follow each other closely.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "asking for shared memory");
    if (shared_bytes <= kAlwaysAllowed) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(device.shared_limit)),
          "asking for shared memory");
}

int resident_blocks(const Device& device, const void* kernel, int threads, size_t shared_bytes) {
    allow_shared(device, kernel, shared_bytes);
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes),
          "asking how many blocks fit");
    return blocks > 0 ? blocks : 1;
}

}  // namespace gptoss::cuda

// One CUDA device as the stages see it, and the one way to launch a kernel on it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

namespace gptoss::cuda {

constexpr size_t kStaticShared = 1024;  // bytes a kernel may have beside what it asks for

struct Device {
    int index = 0;
    cudaStream_t stream = nullptr;  // all stages run on it, in order
    int multiprocessors = 0;
    int architecture = 0;     // 10 * major + minor
    size_t shared_limit = 0;  // bytes of shared memory that a block may ask for
};

// Whether the kernels of warpgroup.cuh run there.
inline bool has_warpgroups([[maybe_unused]] const Device& device) {
#if defined(GPTOSS_SM90A) || defined(GPTOSS_EMULATED)
    return device.architecture == 90;
#else
    return false;  // built without their code
#endif
}

// Throws OutOfMemory or DeviceError that says what was being done and what the device answered.
void check(cudaError_t status, const char* doing);

// More shared memory than is always allowed must be asked for: all there is, so that what a kernel
// may use is never lowered under a recorded launch. Every kernel asks for the same share of what
// multiprocessors have.
void allow_shared(const Device& device, const void* kernel, size_t shared_bytes);

// Blocks of a kernel that one multiprocessor holds at once, at least one.
int resident_blocks(const Device& device, const void* kernel, int threads, size_t shared_bytes);

// Kernels of one stream may start before the one before has ended (from sm_90 on): each calls
// wait_for_earlier_kernels() (ptx.cuh) in every thread that goes on to read or write what another
// kernel writes or reads, and may load weights before that.
template <class... Parameters, class... Arguments>
void launch(const Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, const Arguments&... arguments) {
    allow_shared(device, reinterpret_cast<const void*>(kernel), shared_bytes);
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = device.stream;
    config.attrs = &early;
    config.numAttrs = device.architecture >= 90 ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
          "launching a kernel");
}

}  // namespace gptoss::cuda

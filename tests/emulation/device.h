// The emulated device: its state, its memory, and how every call of the runtime begins and ends.
//
// Environment, read at each use:
//   GPTOSS_EMULATION_DEVICES     how many there are (1)
//   GPTOSS_EMULATION_DRIVER      "old": every call says cudaErrorInsufficientDriver
//   GPTOSS_EMULATION_CAPABILITY  10 major + minor (90)
//   GPTOSS_EMULATION_SMS         multiprocessors (3)
//   GPTOSS_EMULATION_SHARED      bytes of shared memory a block may ask for (232448)
//   GPTOSS_EMULATION_MEMORY      bytes of device memory (8 GiB)
//   GPTOSS_EMULATION_LOSE        this kernel, counted from 1, loses the device
//   GPTOSS_EMULATION_SEED        of the order of threads and blocks (0)
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "emulation/runtime_api.h"

#pragma GCC visibility push(hidden)

namespace gptoss::emulation {

struct Device {
    std::recursive_mutex mutex;      // around every call, kernels included
    cudaError_t lost = cudaSuccess;  // sticky
    uint64_t kernels = 0;            // run so far
};

Device& device();
uint64_t setting(const char* name, uint64_t otherwise);
// No driver, no device, or a lost one.
cudaError_t device_state();
// Keeps an error for cudaGetLastError.
cudaError_t remember(cudaError_t error);
// Says why on stderr, and keeps the error for good.
void lose(cudaError_t error, const std::string& why);

// True if [p, p + bytes) lies in one block of device memory, or touches none at all.
bool is_device_range(const void* p, size_t bytes);
bool touches_device(const void* p);

// Runs the body of a call unless the device cannot.
template <class F>
cudaError_t call(F body) {
    const std::lock_guard lock(device().mutex);
    const cudaError_t state = device_state();
    return remember(state != cudaSuccess ? state : body());
}

}  // namespace gptoss::emulation

#pragma GCC visibility pop

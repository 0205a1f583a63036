// CUDA for g++: what the kernels and their host code take from <cuda_runtime.h>, on the CPU.
// A thread is a fiber (block.h), a stream a list of work that runs when somebody waits
// (streams.h), device memory is poisoned heap memory (device.h).
#pragma once

// Standard headers that use the attribute __noinline__ come before it becomes a macro.
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
// Blocks run one after another, on one host thread at a time.
#define __shared__ static
#define __builtin_assume(condition) static_cast<void>(0)

#define CUDART_VERSION 13000

#include "emulation/collectives.h"
#include "emulation/intrinsics.h"
#include "emulation/launch.h"
#include "emulation/runtime_api.h"
#include "emulation/vectors.h"

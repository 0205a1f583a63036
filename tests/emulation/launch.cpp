// Launches: what a device would refuse is refused at once; what goes wrong in a kernel loses the
// device when it runs.
#include "emulation/launch.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>

#include "emulation/block.h"
#include "emulation/device.h"
#include "emulation/streams.h"

namespace gptoss::emulation {

namespace {

// Without asking for more; and what the block itself takes of a multiprocessor's.
constexpr size_t kDefaultShared = 48 << 10, kReservedShared = 1 << 10;

size_t most_shared() { return setting("GPTOSS_EMULATION_SHARED", 232448); }

std::map<const void*, size_t>& allowed_shared() {
    static auto* all = new std::map<const void*, size_t>;
    return *all;
}

size_t shared_of(const void* kernel) {
    const auto found = allowed_shared().find(kernel);
    return std::min(most_shared(),
                    found != allowed_shared().end() ? found->second : kDefaultShared);
}

cudaError_t check(const Launch& launch) {
    const dim3 &grid = launch.grid, &block = launch.block;
    const size_t threads = size_t{block.x} * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0 || threads > 1024 ||
        block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        return cudaErrorInvalidConfiguration;
    }
    return launch.shared_bytes <= shared_of(launch.kernel) ? cudaSuccess : cudaErrorInvalidValue;
}

void run(const Launch& launch) {
    const uint64_t number = ++device().kernels;
    const std::string name = "kernel " + std::to_string(number) + ": ";
    if (number == setting("GPTOSS_EMULATION_LOSE", 0)) {
        lose(cudaErrorIllegalAddress, name + "the device is lost, as asked");
        return;
    }
    const uint64_t seed = setting("GPTOSS_EMULATION_SEED", 0);
    const std::string failure = run_grid(launch, seed * 0x9e3779b97f4a7c15u + number);
    if (!failure.empty()) lose(cudaErrorLaunchFailure, name + failure);
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel,
                   std::function<void()> body) {
    // Shared, because a graph runs it many times.
    const auto launch = std::make_shared<const Launch>(
        Launch{config.gridDim, config.blockDim, config.dynamicSmemBytes, kernel, std::move(body)});
    return call([&] {
        const cudaError_t error = check(*launch);
        if (error == cudaSuccess) enqueue(config.stream, [launch] { run(*launch); });
        return error;
    });
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    return call([&] {
        if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
        if (value < 0 || static_cast<size_t>(value) > most_shared()) return cudaErrorInvalidValue;
        allowed_shared()[kernel] = static_cast<size_t>(value);
        return cudaSuccess;
    });
}

cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel) {
    return call([&] {
        cudaFuncAttributes out{};
        out.maxThreadsPerBlock = 1024;
        out.numRegs = 64;
        out.ptxVersion = out.binaryVersion =
            static_cast<int>(setting("GPTOSS_EMULATION_CAPABILITY", 90));
        out.maxDynamicSharedSizeBytes = static_cast<int>(shared_of(kernel));
        *attributes = out;
        return cudaSuccess;
    });
}

cudaError_t active_blocks(int* blocks, int threads, size_t shared_bytes) {
    return call([&] {
        if (threads <= 0) return cudaErrorInvalidValue;
        const size_t by_shared =
            (most_shared() + kReservedShared) / (shared_bytes + kReservedShared);
        *blocks = threads > 1024 ? 0 : static_cast<int>(std::min<size_t>(2, by_shared));
        return cudaSuccess;
    });
}

}  // namespace gptoss::emulation

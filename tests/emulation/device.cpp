// Errors, properties and memory. Every block of memory is an allocation of its own, so that the
// address sanitizer guards its ends, and holds NaN until it is written.
#include "emulation/device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "emulation/streams.h"

namespace gptoss::emulation {

namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

constexpr size_t kAlignment = 256;

// Blocks of one kind of memory: address and size.
class Blocks {
  public:
    void* allocate(size_t bytes) {
        void* p = nullptr;
        if (posix_memalign(&p, kAlignment, bytes) != 0) return nullptr;
        std::memset(p, 0xff, bytes);
        blocks_[reinterpret_cast<uintptr_t>(p)] = bytes;
        used_bytes_ += bytes;
        return p;
    }
    bool release(void* p) {
        const auto found = blocks_.find(reinterpret_cast<uintptr_t>(p));
        if (found == blocks_.end()) return false;
        used_bytes_ -= found->second;
        blocks_.erase(found);
        std::free(p);
        return true;
    }
    // Bytes from p to the end of its block; 0 outside of all.
    size_t rest(const void* p) const {
        const auto address = reinterpret_cast<uintptr_t>(p);
        auto after = blocks_.upper_bound(address);
        if (after == blocks_.begin()) return 0;
        --after;
        const uintptr_t end = after->first + after->second;
        return address < end ? end - address : 0;
    }
    size_t used_bytes() const { return used_bytes_; }

  private:
    std::map<uintptr_t, size_t> blocks_;
    size_t used_bytes_ = 0;
};

// Never destroyed, as host code may release memory very late.
Blocks& device_blocks() {
    static auto* one = new Blocks;
    return *one;
}
Blocks& pinned_blocks() {
    static auto* one = new Blocks;
    return *one;
}

size_t memory_limit() { return setting("GPTOSS_EMULATION_MEMORY", uint64_t{8} << 30); }

cudaError_t checked_device(int id) {
    const int count = static_cast<int>(setting("GPTOSS_EMULATION_DEVICES", 1));
    return id >= 0 && id < count ? cudaSuccess : cudaErrorInvalidDevice;
}

}  // namespace

Device& device() {
    static auto* one = new Device;
    return *one;
}

uint64_t setting(const char* name, uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : otherwise;
}

cudaError_t device_state() {
    const char* driver = std::getenv("GPTOSS_EMULATION_DRIVER");
    if (driver != nullptr && std::strcmp(driver, "old") == 0) return cudaErrorInsufficientDriver;
    if (setting("GPTOSS_EMULATION_DEVICES", 1) == 0) return cudaErrorNoDevice;
    return device().lost;
}

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

void lose(cudaError_t error, const std::string& why) {
    std::fprintf(stderr, "emulated device: %s\n", why.c_str());
    if (device().lost == cudaSuccess) device().lost = error;
}

bool touches_device(const void* p) { return device_blocks().rest(p) != 0; }
bool is_device_range(const void* p, size_t bytes) {
    return bytes == 0 || device_blocks().rest(p) >= bytes;
}

}  // namespace gptoss::emulation

using namespace gptoss::emulation;

cudaError_t cudaGetLastError() {
    const cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() {
    const std::lock_guard lock(device().mutex);
    return device().lost != cudaSuccess ? device().lost : last_error;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 0;
    return call([&] {
        *count = static_cast<int>(setting("GPTOSS_EMULATION_DEVICES", 1));
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int id) {
    return call([&] {
        const cudaError_t error = checked_device(id);
        if (error == cudaSuccess) current_device = id;
        return error;
    });
}

cudaError_t cudaGetDevice(int* id) {
    return call([&] {
        *id = current_device;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int id) {
    return call([&] {
        if (checked_device(id) != cudaSuccess) return cudaErrorInvalidDevice;
        const int capability = static_cast<int>(setting("GPTOSS_EMULATION_CAPABILITY", 90));
        cudaDeviceProp out{};
        std::strcpy(out.name, "emulated");
        out.major = capability / 10;
        out.minor = capability % 10;
        out.multiProcessorCount = static_cast<int>(setting("GPTOSS_EMULATION_SMS", 3));
        out.l2CacheSize = 1 << 20;
        out.warpSize = 32;
        out.maxThreadsPerBlock = 1024;
        out.maxThreadsPerMultiProcessor = 2048;
        out.regsPerBlock = 65536;
        out.memoryBusWidth = 64;
        out.sharedMemPerBlock = 48 << 10;
        out.sharedMemPerBlockOptin = setting("GPTOSS_EMULATION_SHARED", 232448);
        out.sharedMemPerMultiprocessor = out.sharedMemPerBlockOptin + 1024;
        out.totalGlobalMem = memory_limit();
        *properties = out;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int id) {
    cudaDeviceProp all;
    const cudaError_t error = cudaGetDeviceProperties(&all, id);
    if (error != cudaSuccess) return error;
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = all.maxThreadsPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = static_cast<int>(all.sharedMemPerBlock);
            break;
        case cudaDevAttrWarpSize: *value = all.warpSize; break;
        case cudaDevAttrMultiProcessorCount: *value = all.multiProcessorCount; break;
        case cudaDevAttrIntegrated: *value = all.integrated; break;
        case cudaDevAttrL2CacheSize: *value = all.l2CacheSize; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = all.maxThreadsPerMultiProcessor;
            break;
        case cudaDevAttrComputeCapabilityMajor: *value = all.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = all.minor; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = static_cast<int>(all.sharedMemPerMultiprocessor);
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(all.sharedMemPerBlockOptin);
            break;
        default: return remember(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = device_state() == cudaErrorInsufficientDriver ? 11000 : 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset() {
    const std::lock_guard lock(device().mutex);
    device().lost = last_error = cudaSuccess;
    device().kernels = 0;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
    return call([&] {
        *total_bytes = memory_limit();
        const size_t used = device_blocks().used_bytes();
        *free_bytes = *total_bytes - (used < *total_bytes ? used : *total_bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
    return call([&] {
        *p = nullptr;
        if (!may_block_capture()) return cudaErrorStreamCaptureUnsupported;
        const size_t limit = memory_limit(), used = device_blocks().used_bytes();
        if (bytes > limit || used > limit - bytes) return cudaErrorMemoryAllocation;
        if (bytes != 0) *p = device_blocks().allocate(bytes);
        return *p != nullptr || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
    });
}

cudaError_t cudaFree(void* p) {
    const std::lock_guard lock(device().mutex);
    if (p == nullptr) return remember(device_state());
    if (!may_block_capture()) return remember(cudaErrorStreamCaptureUnsupported);
    run_everything();
    if (!device_blocks().release(p)) return remember(cudaErrorInvalidValue);
    return remember(device_state());
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
    return call([&] {
        *p = bytes != 0 ? pinned_blocks().allocate(bytes) : nullptr;
        return *p != nullptr || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
    });
}

cudaError_t cudaFreeHost(void* p) {
    const std::lock_guard lock(device().mutex);
    if (p != nullptr && !pinned_blocks().release(p)) return remember(cudaErrorInvalidValue);
    return remember(device_state());
}

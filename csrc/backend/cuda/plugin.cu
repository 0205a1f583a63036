// What the plugin exports (backend/plugin.h).
#include "backend/plugin.h"

#include "backend/cuda/cuda_backend.h"
#include "base/error.h"

namespace {

using namespace gptoss;

// Throws DeviceError that says which driver there is and which is wanted.
int device_count() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorNoDevice) return 0;
    if (status == cudaErrorInsufficientDriver) {
        int driver = 0, runtime = 0;
        cudaDriverGetVersion(&driver);
        cudaRuntimeGetVersion(&runtime);
        const auto shown = [](int v) { return message(v / 1000, ".", v % 1000 / 10); };
        throw DeviceError(driver == 0 ? std::string("no NVIDIA driver is installed")
                                      : message("the NVIDIA driver is too old: it supports CUDA ",
                                                shown(driver), ", wanted ", shown(runtime)));
    }
    cuda::check(status, "looking for CUDA devices");
    return count;
}

}  // namespace

#define GPTOSS_EXPORT extern "C" __attribute__((visibility("default")))

GPTOSS_EXPORT const char* gptoss_plugin_version() { return GPTOSS_PLUGIN_VERSION; }

GPTOSS_EXPORT void gptoss_plugin_devices(std::vector<PluginDevice>* out) {
    const int count = device_count();
    for (int i = 0; i < count; ++i) {
        cudaDeviceProp properties;
        cuda::check(cudaGetDeviceProperties(&properties, i), "asking for a device's properties");
        out->push_back({properties.name, message("sm_", properties.major, properties.minor),
                        properties.totalGlobalMem});
    }
}

GPTOSS_EXPORT Backend* gptoss_plugin_backend(int index, Precision precision, int loading_threads) {
    const int count = device_count();
    if (index >= count)
        throw DeviceError(count == 0 ? std::string("this machine has no CUDA device")
                                     : message("device \"cuda:", index, "\": there are ", count));
    return new cuda::CudaBackend(index, precision, loading_threads);
}

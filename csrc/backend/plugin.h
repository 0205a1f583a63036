// A backend in a shared library of its own, opened when a device of it is asked for: the package
// imports on machines without a driver, and the host process never links one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace gptoss {

// What a library exports: both sides are built from the same sources, which this number checks.
constexpr int kPluginVersion = 2;
using PluginVersion = int();  // gptoss_plugin_version
using PluginBackend = Backend*(int index, Precision precision, int loading_threads);
// gptoss_plugin_backend
struct PluginDevice {
    std::string name;
    std::string architecture;
    size_t memory_bytes;
};
using PluginDevices = void(std::vector<PluginDevice>* out);  // gptoss_plugin_devices

class Plugin {
  public:
    // Throws DeviceError if the library is missing, cannot be opened or is of another build. It
    // stays open for the life of the process.
    explicit Plugin(const std::string& path);

    // Throws DeviceError where the driver is missing or too old.
    std::vector<PluginDevice> devices() const;
    std::unique_ptr<Backend> backend(int index, Precision precision, int loading_threads) const;

  private:
    void* symbol(const char* name) const;

    std::string path_;
    void* library_;
};

// Where the library of a device kind lies: "cuda" beside this library, "cuda-emulated" where the
// variable GPTOSS_CUDA_EMULATED says. Throws DeviceError.
std::string plugin_path(const std::string& kind);

}  // namespace gptoss

// A backend in a shared library of its own, opened when a device of it is asked for: the package
// imports on machines without a driver, and the host process never links one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace gptoss {

struct PluginDevice {
    std::string name;
    std::string architecture;
    size_t memory_bytes;
};

// What a library exports, as gptoss_plugin_version, _devices and _backend. Both sides must be built
// from the same headers: the version is a hash of csrc/{base,weights,backend}/*.h (CMakeLists.txt,
// tests/emulation/build.py).
using PluginVersion = const char*();
using PluginDevices = void(std::vector<PluginDevice>* out);
using PluginBackend = Backend*(int index, Precision precision, int loading_threads);

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

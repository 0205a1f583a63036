#include "backend/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"

namespace gptoss {

Plugin::Plugin(const std::string& path)
    : path_(path), library_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!library_) throw DeviceError(message("cannot open ", path, ": ", dlerror()));
    const std::string version = reinterpret_cast<PluginVersion*>(symbol("gptoss_plugin_version"))();
    if (version != GPTOSS_PLUGIN_VERSION)
        throw DeviceError(message(path, " is of another build: version ", version, ", wanted ",
                                  GPTOSS_PLUGIN_VERSION));
}

void* Plugin::symbol(const char* name) const {
    void* found = dlsym(library_, name);
    if (!found) throw DeviceError(message(path_, " has no ", name));
    return found;
}

std::vector<PluginDevice> Plugin::devices() const {
    std::vector<PluginDevice> out;
    reinterpret_cast<PluginDevices*>(symbol("gptoss_plugin_devices"))(&out);
    return out;
}

std::unique_ptr<Backend> Plugin::backend(int index, Precision precision,
                                         int loading_threads) const {
    auto* make = reinterpret_cast<PluginBackend*>(symbol("gptoss_plugin_backend"));
    return std::unique_ptr<Backend>(make(index, precision, loading_threads));
}

std::string plugin_path(const std::string& kind) {
    if (kind == "cuda-emulated") {
        const char* path = std::getenv("GPTOSS_CUDA_EMULATED");
        if (path) return path;
        throw DeviceError(
            "device \"cuda-emulated\" is for tests: build it with tests/emulation/build.py and "
            "name the library in GPTOSS_CUDA_EMULATED");
    }
    Dl_info here;
    if (!dladdr(reinterpret_cast<void*>(&plugin_path), &here))
        throw DeviceError("cannot find the folder of the library that runs");
    const std::string self = here.dli_fname;
    const std::string path = self.substr(0, self.find_last_of('/') + 1) + "libgptoss_cuda.so";
    if (access(path.c_str(), F_OK) != 0)
        throw DeviceError("device \"cuda\": this build has no CUDA backend");
    return path;
}

}  // namespace gptoss

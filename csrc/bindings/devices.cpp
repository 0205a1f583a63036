#include "bindings/devices.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "bindings/numbers.h"

namespace py = pybind11;

namespace gptoss {
namespace {

// More read no faster from one disk or one processor's memory.
constexpr int kMostLoadingThreads = 8;

bool has_cuda_device() {
    try {
        return !Plugin(plugin_path("cuda")).devices().empty();
    } catch (const DeviceError&) {
        return false;  // info() says why
    }
}

}  // namespace

DeviceChoice to_device(py::handle device) {
    if (py::isinstance<py::str>(device)) {
        const auto name = device.cast<std::string>();
        if (name == "auto") return {has_cuda_device() ? "cuda" : "cpu"};
        if (name == "cpu" || name == "cuda" || name == "cuda-emulated") return {name};
        const std::string prefix = "cuda:";
        const bool digits = name.size() > prefix.size() && name.size() <= prefix.size() + 3 &&
                            std::all_of(name.begin() + prefix.size(), name.end(),
                                        [](char c) { return c >= '0' && c <= '9'; });
        if (name.starts_with(prefix) && digits) return {"cuda", std::stoi(name.substr(5))};
    }
    throw InvalidArgument(
        message("device is ", shown(device), ", wanted \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""));
}

std::unique_ptr<Backend> make_backend(const DeviceChoice& device, Precision precision,
                                      int threads) {
    if (device.kind == "cpu") return std::make_unique<cpu::CpuBackend>(precision, threads);
    const int loading = std::min(threads ? threads : usable_processors(), kMostLoadingThreads);
    return Plugin(plugin_path(device.kind)).backend(device.index, precision, loading);
}

py::object cuda_info() {
    std::vector<PluginDevice> found;
    try {
        found = Plugin(plugin_path("cuda")).devices();
    } catch (const DeviceError& e) {
        return py::str(e.what());
    }
    py::list out;
    for (const PluginDevice& device : found) {
        py::dict entry;
        entry["name"] = device.name;
        entry["architecture"] = device.architecture;
        entry["memory_bytes"] = device.memory_bytes;
        out.append(entry);
    }
    return out;
}

}  // namespace gptoss

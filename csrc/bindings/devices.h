// Which device a caller means, and backends on it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "backend/plugin.h"

namespace gptoss {

struct DeviceChoice {
    std::string kind;  // "cpu", "cuda" or "cuda-emulated"
    int index = 0;     // of that kind
};

// "auto" (the first CUDA device if there is one, else the processor), "cpu", "cuda", "cuda:N" or
// "cuda-emulated". Throws InvalidArgument; what is absent shows when a backend is made.
DeviceChoice to_device(pybind11::handle device);

// threads: of the processor, or those that load; 0 for all that the process may use. Throws
// DeviceError.
std::unique_ptr<Backend> make_backend(const DeviceChoice& device, Precision precision, int threads);

// A list of devices as dicts, or why there are none.
pybind11::object cuda_info();

}  // namespace gptoss

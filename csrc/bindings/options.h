// The options of Model.load() and random(), read from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <optional>
#include <utility>

#include "bindings/devices.h"
#include "session/engine.h"

namespace gptoss {

struct Options {
    DeviceChoice device;
    WeightFormat dense;
    Precision precision;
    DType kv;
    int threads;
    bool deterministic = false;
    // None: by what the device has left once the weights are there.
    std::optional<size_t> kv_bytes, prefix_bytes;
    int streams = EngineLimits().streams, waiting = EngineLimits().waiting;
};

// What the word given means. Throws InvalidArgument, as do the others, naming what is known.
using NamedChoice = std::pair<const char*, int>;
int choose(const char* name, pybind11::handle value, std::initializer_list<NamedChoice> choices);

Options to_options(const pybind11::object& device, const pybind11::object& dense,
                   const pybind11::object& precision, const pybind11::object& kv,
                   const pybind11::object& threads);

// Those that are not named stay what they are.
void read_limits(Options& options, const pybind11::dict& limits);

// Half of the bytes available is for caches, and half of that for prefixes that no session needs.
EngineLimits engine_limits(const Options& options, size_t available);

}  // namespace gptoss

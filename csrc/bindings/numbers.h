// Python numbers to C++ ones, refused by name where they do not fit.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "base/error.h"

namespace gptoss {

inline std::string shown(pybind11::handle value) {
    const auto text = pybind11::repr(value).cast<std::string>();
    return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

// An integer, or anything with __index__, in [low, high].
inline int64_t to_integer(const char* name, pybind11::handle value,
                          int64_t low = std::numeric_limits<int64_t>::min(),
                          int64_t high = std::numeric_limits<int64_t>::max()) {
    const auto index = pybind11::reinterpret_steal<pybind11::object>(PyNumber_Index(value.ptr()));
    if (!index) {
        PyErr_Clear();
        throw InvalidArgument(message(name, " is ", shown(value), ", wanted an integer"));
    }
    int overflow = 0;
    const int64_t out = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (overflow || out < low || out > high)
        throw InvalidArgument(message(name, " is ", shown(value), ", wanted ", low, " to ", high));
    return out;
}

inline std::optional<int64_t> to_optional_integer(
    const char* name, const pybind11::object& value,
    int64_t low = std::numeric_limits<int64_t>::min(),
    int64_t high = std::numeric_limits<int64_t>::max()) {
    if (value.is_none()) return std::nullopt;
    return to_integer(name, value, low, high);
}

inline uint64_t to_seed(pybind11::handle value) {
    const auto index = pybind11::reinterpret_steal<pybind11::object>(PyNumber_Index(value.ptr()));
    const uint64_t seed = index ? PyLong_AsUnsignedLongLong(index.ptr()) : 0;
    if (PyErr_Occurred()) {
        PyErr_Clear();
        throw InvalidArgument(
            message("seed is ", shown(value), ", wanted an integer from 0 to 2**64 - 1"));
    }
    return seed;
}

inline double to_number(const char* name, pybind11::handle value) {
    const double out = PyFloat_AsDouble(value.ptr());
    if (PyErr_Occurred()) {
        PyErr_Clear();
        throw InvalidArgument(message(name, " is ", shown(value), ", wanted a number"));
    }
    return out;
}

inline bool to_flag(const char* name, pybind11::handle value) {
    if (!PyBool_Check(value.ptr()))
        throw InvalidArgument(message(name, " is ", shown(value), ", wanted True or False"));
    return value.ptr() == Py_True;
}

}  // namespace gptoss

// The five kinds of error that reach a caller. Messages say what was given and what was wanted.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace gptoss {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A value that the caller passed cannot be used.
class InvalidArgument : public Error {
  public:
    using Error::Error;
};

// A checkpoint's files are damaged, incomplete or not a gpt-oss model.
class CheckpointError : public Error {
  public:
    using Error::Error;
};

// Memory could not be had.
class OutOfMemory : public Error {
  public:
    using Error::Error;
};

// A device is absent, unusable or lost.
class DeviceError : public Error {
  public:
    using Error::Error;
};

// More was asked for than the engine takes at a time.
class EngineBusy : public Error {
  public:
    using Error::Error;
};

// Joins its arguments: message("got ", 3, ", wanted 4"). Without streams: those depend on the
// process's locale, and on there being one C++ library in the process.
template <class Part>
void append_to(std::string& out, const Part& part) {
    if constexpr (std::is_convertible_v<const Part&, std::string_view>) {
        out += std::string_view(part);
    } else if constexpr (std::is_same_v<Part, char>) {
        out += part;
    } else if constexpr (std::is_floating_point_v<Part>) {
        char digits[32];
        std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
        out += digits;
    } else {
        out += std::to_string(part);
    }
}

template <class... Parts>
std::string message(const Parts&... parts) {
    std::string out;
    (append_to(out, parts), ...);
    return out;
}

}  // namespace gptoss

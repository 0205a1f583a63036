// The five kinds of error that reach a caller. Messages say what was given and what was wanted.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

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

// Joins its arguments as an output stream would print them: message("got ", 3, ", wanted 4").
template <class... Parts>
std::string message(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

}  // namespace gptoss

// A Python object that decides which tokens a stream may go on with.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "session/generation.h"

namespace gptoss {

// What a callback raised, on its way to the call that it belongs to: across threads, without the
// GIL, and unchanged.
class PythonFailure {
  public:
    // With the GIL, as the rest of this class but its copies and its end.
    explicit PythonFailure(const pybind11::error_already_set& error);
    [[noreturn]] void raise() const { throw pybind11::error_already_set(*error_); }

  private:
    std::shared_ptr<pybind11::error_already_set> error_;
};

// Calls the object's methods mask and accept, and ahead and mask_after where it has them, taking
// the GIL and throwing PythonFailure; to be made and ended by the stream's caller, with the GIL,
// around one token. The object is not kept. `caller`: of the thread that asks for the token, as
// Python counts them; 0: none of Python's.
Constraint python_constraint(pybind11::handle object, unsigned long caller);

void bind_constraint(pybind11::module_& m);

}  // namespace gptoss

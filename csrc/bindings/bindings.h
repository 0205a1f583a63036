// What the files of the extension module share.
#pragma once

#include <pybind11/pybind11.h>

#include "backend/backend.h"
#include "session/session.h"

namespace gptoss {

void bind_sampling(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_session(pybind11::module_& m);

// Lets a pending Ctrl-C end the work.
Interrupt python_signals();

}  // namespace gptoss

// What the files of the extension module share.
#pragma once

#include <pybind11/pybind11.h>

#include "backend/backend.h"
#include "session/session.h"

namespace gptoss {

// A model as Python holds it.
class LoadedModel {
  public:
    explicit LoadedModel(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

    Engine& engine() const { return *engine_; }
    std::shared_ptr<Engine> shared_engine() const { return engine_; }

  private:
    std::shared_ptr<Engine> engine_;
};

void bind_sampling(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_session(pybind11::module_& m);
void bind_stages(pybind11::module_& m);

// Releases the GIL for its life. Where the interpreter has begun to end meanwhile, the thread waits
// for the process's end instead of taking the GIL: before 3.14 that would unwind it, and abort.
class ReleaseGil {
  public:
    ReleaseGil() : state_(PyEval_SaveThread()) {}
    ~ReleaseGil() {
        wait_if_ending();
        PyEval_RestoreThread(state_);
    }
    ReleaseGil(const ReleaseGil&) = delete;
    ReleaseGil& operator=(const ReleaseGil&) = delete;

    static void wait_if_ending();

  private:
    PyThreadState* state_;
};

// Lets a pending Ctrl-C end the work.
Interrupt python_signals();

}  // namespace gptoss

// What the files of the extension module share.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>

#include "backend/backend.h"
#include "session/session.h"

namespace gptoss {

// A model as Python holds it.
class LoadedModel {
  public:
    // arrival: of weights that are being loaded; null: they are there.
    LoadedModel(std::shared_ptr<Engine> engine, std::shared_ptr<Arrival> arrival)
        : engine_(std::move(engine)), arrival_(std::move(arrival)) {}

    Engine& engine() const { return *engine_; }
    std::shared_ptr<Engine> shared_engine() const { return engine_; }

    void wait(const Interrupt& interrupt) const {
        if (arrival_) arrival_->wait(interrupt);
    }
    double loaded() const { return arrival_ ? arrival_->share() : 1.0; }
    void close() const {
        // A step may wait for weights.
        if (arrival_) arrival_->stop();
        engine_->close();
    }

  private:
    std::shared_ptr<Engine> engine_;
    std::shared_ptr<Arrival> arrival_;
};

void bind_sampling(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_session(pybind11::module_& m);
void bind_stages(pybind11::module_& m);

// Taking the GIL once the interpreter has begun to end unwinds the thread and, before Python 3.14,
// aborts the process. A thread about to take it passes here, and where the end has begun waits for
// it instead; the end (an atexit hook) waits for those that have passed.
class GilGate {
  public:
    GilGate();
    ~GilGate();
    static void close_at_exit(pybind11::module_& m);
};

// Releases the GIL for its life.
class ReleaseGil {
  public:
    ReleaseGil() : state_(PyEval_SaveThread()) {}
    ~ReleaseGil() {
        const GilGate gate;
        PyEval_RestoreThread(state_);
    }
    ReleaseGil(const ReleaseGil&) = delete;
    ReleaseGil& operator=(const ReleaseGil&) = delete;

  private:
    PyThreadState* state_;
};

// Takes the GIL for its life.
class TakeGil {
  public:
    TakeGil() {
        const GilGate gate;
        state_ = PyGILState_Ensure();
    }
    ~TakeGil() { PyGILState_Release(state_); }
    TakeGil(const TakeGil&) = delete;
    TakeGil& operator=(const TakeGil&) = delete;

  private:
    PyGILState_STATE state_;
};

// The Python exception that this is. To be called with the GIL.
pybind11::object to_python(std::exception_ptr failure);

// Lets a pending Ctrl-C end the work; null off the main thread. To be called with the GIL.
Interrupt python_signals();

}  // namespace gptoss

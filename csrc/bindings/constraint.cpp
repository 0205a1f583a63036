#include "bindings/constraint.h"

#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <unistd.h>

#include <cstring>

#include "bindings/bindings.h"
#include "bindings/numbers.h"

namespace py = pybind11;

namespace gptoss {
namespace {

// Calls use() with the GIL; nothing of Python's is left when it is released.
template <class Use>
void with_python(Use use) {
    const TakeGil gil;
    try {
        use();
    } catch (const py::error_already_set& error) {
        throw PythonFailure(error);
    }
}

// The end of the interpreter unwinds threads that are in Python's code. That would go through the
// locks of a step: such a thread waits here for the end instead, as at GilGate.
py::object call(py::handle object, const char* method, py::handle argument) {
    PyObject* answer = nullptr;
    try {
        answer = PyObject_CallMethod(object.ptr(), method, "O", argument.ptr());
    } catch (abi::__forced_unwind&) {
        for (;;) ::pause();
    }
    if (!answer) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(answer);
}

using Words = py::array_t<int32_t>;

// Another array each time: an object may keep it, and write to it later.
void call_mask(py::handle object, std::span<uint32_t> mask) {
    Words words(static_cast<py::ssize_t>(mask.size()));
    std::memset(words.mutable_data(), 0, mask.size_bytes());
    const py::object answer = call(object, "mask", words);
    if (!answer.is_none())
        throw InvalidArgument(message("the constraint's mask() returned ", shown(answer),
                                      ", wanted None: it fills the array that it is given"));
    // NumPy lets an array be made into another in place.
    if (words.nbytes() != static_cast<py::ssize_t>(mask.size_bytes()) ||
        !(words.flags() & py::array::c_style))
        throw InvalidArgument(message("the constraint's mask() changed the array's shape, wanted ",
                                      mask.size(), " words of 32 tokens"));
    std::memcpy(mask.data(), words.data(), mask.size_bytes());
}

// Python runs signal handlers in whatever its main thread calls, and that may be another stream's
// mask(). A Ctrl-C there is the main thread's: it gets it back, and the mask is asked for again.
void call_mask_elsewhere(py::handle object, std::span<uint32_t> mask) {
    try {
        call_mask(object, mask);
    } catch (const py::error_already_set& error) {
        if (!error.matches(PyExc_KeyboardInterrupt)) throw;
        call_mask(object, mask);
        PyErr_SetInterrupt();
    }
}

}  // namespace

PythonFailure::PythonFailure(const py::error_already_set& error)
    : error_(new py::error_already_set(error), [](py::error_already_set* held) {
          if (PyGILState_Check()) {
              delete held;
              return;
          }
          const TakeGil gil;
          delete held;
      }) {}

Constraint python_constraint(py::handle object, unsigned long caller) {
    Constraint out;
    out.fill_mask = [object, caller](std::span<uint32_t> mask) {
        const bool elsewhere = PyThread_get_thread_ident() != caller;
        with_python([&] { (elsewhere ? call_mask_elsewhere : call_mask)(object, mask); });
    };
    out.accept = [object](int token) {
        with_python([&] { call(object, "accept", py::int_(token)); });
    };
    return out;
}

}  // namespace gptoss

#include "bindings/constraint.h"

#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <memory>
#include <vector>

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
template <class... Arguments>
py::object call(py::handle object, const char* method, const Arguments&... arguments) {
    PyObject* answer = nullptr;
    try {
        answer = PyObject_CallMethodObjArgs(object.ptr(), py::str(method).ptr(), arguments.ptr()...,
                                            nullptr);
    } catch (abi::__forced_unwind&) {
        for (;;) ::pause();
    }
    if (!answer) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(answer);
}

using Words = py::array_t<int32_t>;

// Calls the method with the arguments and an array to fill, another one each time: an object may
// keep it, and write to it later.
template <class... Arguments>
void call_mask(py::handle object, const char* method, std::span<uint32_t> mask,
               const Arguments&... arguments) {
    Words words(static_cast<py::ssize_t>(mask.size()));
    std::memset(words.mutable_data(), 0, mask.size_bytes());
    const py::object answer = call(object, method, arguments..., words);
    if (!answer.is_none())
        throw InvalidArgument(message("the constraint's ", method, "() returned ", shown(answer),
                                      ", wanted None: it fills the array that it is given"));
    // NumPy lets an array be made into another in place.
    if (words.nbytes() != static_cast<py::ssize_t>(mask.size_bytes()) ||
        !(words.flags() & py::array::c_style))
        throw InvalidArgument(message("the constraint's ", method,
                                      "() changed the array's shape, wanted ", mask.size(),
                                      " words of 32 tokens"));
    std::memcpy(mask.data(), words.data(), mask.size_bytes());
}

// Python runs signal handlers in whatever its main thread calls, and that may be another stream's
// mask, or one that nobody will need. A Ctrl-C there is the main thread's: it gets it back, and the
// mask is asked for again.
template <class Ask>
void keep_interrupt(Ask ask) {
    try {
        ask();
    } catch (const py::error_already_set& error) {
        if (!error.matches(PyExc_KeyboardInterrupt)) throw;
        ask();
        PyErr_SetInterrupt();
    }
}

py::list to_list(std::span<const int> ids) {
    py::list out(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) out[i] = ids[i];
    return out;
}

// A FixedMask, or (ids, how many must come).
Ahead to_ahead(const py::object& answer) {
    Ahead out;
    if (py::isinstance<FixedMask>(answer)) {
        out.mask = answer.cast<std::shared_ptr<FixedMask>>();
        return out;
    }
    const auto refuse = [&] {
        return InvalidArgument(message("the constraint's ahead() returned ", shown(answer),
                                       ", wanted a FixedMask, or ids and how many must come"));
    };
    if (!PyTuple_Check(answer.ptr()) || PyTuple_Size(answer.ptr()) != 2) throw refuse();
    const auto pair = py::reinterpret_borrow<py::tuple>(answer);
    const py::object ids = pair[0], forced = pair[1];
    if (!PyList_Check(ids.ptr()) && !PyTuple_Check(ids.ptr())) throw refuse();
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    for (const py::handle id : ids)
        out.ids.push_back(static_cast<int>(to_integer("a token id of ahead()", id, 0, kMost)));
    const auto count = static_cast<int64_t>(out.ids.size());
    out.forced = static_cast<int>(to_integer("the forced tokens of ahead()", forced, 0, count));
    return out;
}

std::vector<uint32_t> to_words(const char* name, const py::object& given) {
    if (!py::isinstance<Words>(given) || py::cast<py::array>(given).ndim() != 1)
        throw InvalidArgument(
            message(name, " is ", shown(given), ", wanted int32 [words] with a bit for a token"));
    const auto words = py::array_t<int32_t, py::array::c_style | py::array::forcecast>(given);
    std::vector<uint32_t> out(words.size());
    std::memcpy(out.data(), words.data(), out.size() * sizeof(uint32_t));
    return out;
}

std::shared_ptr<FixedMask> make_fixed_mask(const py::object& allowed, const py::object& stays) {
    return std::make_shared<FixedMask>(
        FixedMask{to_words("allowed", allowed), to_words("stays", stays)});
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
        with_python([&] {
            const auto ask = [&] { call_mask(object, "mask", mask); };
            if (elsewhere)
                keep_interrupt(ask);
            else
                ask();
        });
    };
    out.accept = [object](int token) {
        with_python([&] { call(object, "accept", py::int_(token)); });
    };
    if (!py::hasattr(object, "ahead")) return out;
    out.ahead = [object](std::span<const int> guess) {
        Ahead ahead;
        with_python([&] { ahead = to_ahead(call(object, "ahead", to_list(guess))); });
        return ahead;
    };
    out.fill_mask_after = [object](std::span<const int> ids, std::span<uint32_t> mask) {
        with_python(
            [&] { keep_interrupt([&] { call_mask(object, "mask_after", mask, to_list(ids)); }); });
    };
    return out;
}

void bind_constraint(py::module_& m) {
    py::class_<FixedMask, std::shared_ptr<FixedMask>>(m, "FixedMask")
        .def(py::init(&make_fixed_mask), py::arg("allowed"), py::arg("stays"));
}

}  // namespace gptoss

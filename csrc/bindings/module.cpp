// The extension module gptoss_native._core: errors, machine, and the three classes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/constraint.h"
#include "bindings/devices.h"
#include "session/stream_reader.h"

namespace py = pybind11;

namespace gptoss {
namespace {

// Messages may hold file names, which need not be UTF-8.
void raise(PyObject* type, const char* what) {
    const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(what));
    if (text) PyErr_SetObject(type, text.ptr());
}

PyObject* add_error(py::module_& m, const char* name, const py::object& bases) {
    const std::string full = std::string("gptoss_native.") + name;
    auto type =
        py::reinterpret_steal<py::object>(PyErr_NewException(full.c_str(), bases.ptr(), nullptr));
    if (!type) throw py::error_already_set();
    m.attr(name) = type;
    return type.release().ptr();  // lives as long as the process, as the translator does
}

struct Errors {
    PyObject *error, *invalid_argument, *checkpoint_error, *out_of_memory, *device_error,
        *engine_busy;
} errors;

void translate(std::exception_ptr failure) {
    try {
        if (failure) std::rethrow_exception(failure);
    } catch (const InvalidArgument& e) {
        raise(errors.invalid_argument, e.what());
    } catch (const CheckpointError& e) {
        raise(errors.checkpoint_error, e.what());
    } catch (const OutOfMemory& e) {
        raise(errors.out_of_memory, e.what());
    } catch (const DeviceError& e) {
        raise(errors.device_error, e.what());
    } catch (const EngineBusy& e) {
        raise(errors.engine_busy, e.what());
    } catch (const Error& e) {
        raise(errors.error, e.what());
    } catch (const std::bad_alloc&) {
        raise(errors.out_of_memory, "the process has no memory left");
    }
}

void bind_errors(py::module_& m) {
    const auto borrowed = [](PyObject* o) { return py::reinterpret_borrow<py::object>(o); };
    errors.error = add_error(m, "Error", borrowed(PyExc_Exception));
    const py::object base = borrowed(errors.error);
    errors.invalid_argument =
        add_error(m, "InvalidArgument", py::make_tuple(base, borrowed(PyExc_ValueError)));
    errors.checkpoint_error = add_error(m, "CheckpointError", base);
    errors.out_of_memory =
        add_error(m, "OutOfMemory", py::make_tuple(base, borrowed(PyExc_MemoryError)));
    errors.device_error = add_error(m, "DeviceError", base);
    errors.engine_busy = add_error(m, "EngineBusy", base);
    py::register_exception_translator(&translate);
}

double measure_read_rate(const py::object& device, size_t bytes, int threads) {
    const DeviceChoice choice = to_device(device);
    ReleaseGil release;
    const auto backend = make_backend(choice, Precision::kFast, threads);
    constexpr size_t kPiece = size_t{2} << 20;
    const StageMemory memory =
        backend->allocate(std::max(bytes / kPiece, size_t{1}) * kPiece, "measuring the read rate");
    // An untouched page is not memory yet.
    const std::vector<std::byte> ones(kPiece, std::byte{1});
    for (size_t at = 0; at < memory.size(); at += kPiece)
        backend->write(memory.data() + at, ones.data(), kPiece);
    double best = 0;
    for (int i = 0; i < 3; ++i)
        best = std::max(best, backend->read_rate(memory.data(), memory.size()));
    return best;
}

py::dict cpu_info() {
    py::dict out;
    py::list sets;
    for (cpu::Isa isa : cpu::available_isas()) sets.append(cpu::isa_name(isa));
    out["instruction_sets"] = sets;
    out["instruction_set"] = cpu::isa_name(cpu::choose_isa());
    out["threads"] = usable_processors();
    py::dict stages;
    for (Precision precision : {Precision::kFast, Precision::kExact}) {
        py::dict kernels;
        for (const auto& [name, value] : cpu::CpuBackend(precision, 1).describe())
            if (name != "threads" && name != "instruction set") kernels[name.c_str()] = value;
        stages[precision == Precision::kFast ? "fast" : "exact"] = kernels;
    }
    out["stages"] = stages;
    return out;
}

}  // namespace

namespace {

std::atomic<bool> ending{false};
std::atomic<int> entering{0};
std::atomic<std::thread::id> ending_thread{};

}  // namespace

GilGate::GilGate() {
    ++entering;
    if (!ending || ending_thread.load() == std::this_thread::get_id()) return;
    --entering;
    for (;;) ::pause();
}

GilGate::~GilGate() { --entering; }

void GilGate::close_at_exit(py::module_& m) {
    const auto hook = py::cpp_function([] {
        // Threads that read streams end first: a constraint of theirs may need the GIL.
        {
            const ReleaseGil release;
            StreamReader::end_all();
        }
        ending_thread = std::this_thread::get_id();
        ending = true;
        PyThreadState* state = PyEval_SaveThread();
        while (entering > 0) std::this_thread::yield();
        PyEval_RestoreThread(state);
    });
    m.attr("_close_gil_gate") = hook;
    py::module_::import("atexit").attr("register")(hook);
}

py::object to_python(std::exception_ptr failure) {
    try {
        translate(failure);
    } catch (const PythonFailure& raised) {
        try {
            raised.raise();
        } catch (py::error_already_set& error) {
            return error.value();
        }
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return py::error_already_set().value();
}

Interrupt python_signals() {
    // Python runs signal handlers on its main thread alone.
    const auto main_thread = py::module_::import("threading").attr("main_thread")().attr("ident");
    if (main_thread.cast<unsigned long>() != PyThread_get_thread_ident()) return nullptr;
    return [] {
        const TakeGil gil;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    };
}

}  // namespace gptoss

PYBIND11_MODULE(_core, m) {
    using namespace gptoss;
    m.doc() = "The native part of gptoss_native.";
    bind_errors(m);
    GilGate::close_at_exit(m);
    bind_sampling(m);
    bind_constraint(m);
    bind_session(m);
    bind_model(m);
    bind_stages(m);
    m.def("cpu_info", &cpu_info, "What this machine's processor offers and which kernels run.");
    m.def("cuda_info", &cuda_info, "The CUDA devices, or why there are none.");
    m.def("available_memory", &available_memory,
          "Bytes this machine could still give; 0 where it does not say.");
    m.def("measure_read_rate", &measure_read_rate, py::arg("device"), py::arg("bytes"),
          py::arg("threads") = 0,
          "Bytes a second that the device reads without arithmetic, best of three.");
}

// The extension module gptoss_native._core: errors, machine, and the three classes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace gptoss {
namespace {

py::object named_error(py::object error) {
    error.attr("__module__") = "gptoss_native";
    return error;
}

void bind_errors(py::module_& m) {
    const py::object base = named_error(py::register_exception<Error>(m, "Error"));
    const auto both = [&](PyObject* builtin) {
        return py::make_tuple(base, py::reinterpret_borrow<py::object>(builtin));
    };
    named_error(py::register_exception<InvalidArgument>(m, "InvalidArgument",
                                                        both(PyExc_ValueError)));
    named_error(py::register_exception<CheckpointError>(m, "CheckpointError", base));
    static const PyObject* out_of_memory =
        named_error(
            py::register_exception<OutOfMemory>(m, "OutOfMemory", both(PyExc_MemoryError)))
            .release()
            .ptr();
    named_error(py::register_exception<DeviceError>(m, "DeviceError", base));
    py::register_exception_translator([](std::exception_ptr failure) {
        try {
            if (failure) std::rethrow_exception(failure);
        } catch (const std::bad_alloc&) {
            PyErr_SetString(const_cast<PyObject*>(out_of_memory), "the process has no memory left");
        }
    });
}

double measure_read_rate(size_t bytes, int threads) {
    cpu::CpuBackend backend(Precision::kFast, threads);
    const Memory memory(std::max<size_t>(bytes, 4096), "measuring the read rate");
    // An untouched page is not memory yet.
    for (size_t i = 0; i < memory.size(); i += 4096) memory.data()[i] = std::byte{1};
    double best = 0;
    for (int i = 0; i < 3; ++i)
        best = std::max(best, backend.read_rate(memory.data(), memory.size()));
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

Interrupt python_signals() {
    return [] {
        py::gil_scoped_acquire gil;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    };
}

}  // namespace gptoss

PYBIND11_MODULE(_core, m) {
    using namespace gptoss;
    m.doc() = "The native part of gptoss_native.";
    bind_errors(m);
    bind_sampling(m);
    bind_session(m);
    bind_model(m);
    bind_stages(m);
    m.def("cpu_info", &cpu_info, "What this machine's processor offers and which kernels run.");
    m.def("measure_read_rate", &measure_read_rate, py::arg("bytes"), py::arg("threads") = 0,
          py::call_guard<py::gil_scoped_release>(),
          "Bytes a second that all threads read from memory without arithmetic, best of three.");
}

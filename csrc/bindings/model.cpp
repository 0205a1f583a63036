// Model: loading, random weights, the memory plan.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "base/float_environment.h"
#include "bindings/bindings.h"
#include "bindings/devices.h"
#include "bindings/numbers.h"
#include "bindings/options.h"
#include "weights/file_source.h"
#include "weights/random_source.h"

namespace py = pybind11;

namespace gptoss {
namespace {

template <class T>
T field(const py::dict& config, const char* name) {
    if (!config.contains(name)) throw InvalidArgument(message("config has no ", name));
    try {
        return config[name].cast<T>();
    } catch (const py::cast_error&) {
        throw InvalidArgument(
            message("config: ", name, " is ", py::repr(config[name]).cast<std::string>()));
    }
}

ModelConfig to_config(const py::dict& d) {
    ModelConfig c;
    c.vocab_size = field<int>(d, "vocab_size");
    c.hidden_size = field<int>(d, "hidden_size");
    c.intermediate_size = field<int>(d, "intermediate_size");
    c.layers = field<int>(d, "layers");
    c.experts = field<int>(d, "experts");
    c.experts_per_token = field<int>(d, "experts_per_token");
    c.heads = field<int>(d, "heads");
    c.kv_heads = field<int>(d, "kv_heads");
    c.head_dim = field<int>(d, "head_dim");
    c.sliding_window = field<int>(d, "sliding_window");
    c.max_context = field<int>(d, "max_context");
    c.initial_context = field<int>(d, "initial_context");
    c.rope_theta = field<double>(d, "rope_theta");
    c.rope_factor = field<double>(d, "rope_factor");
    c.rope_beta_fast = field<double>(d, "rope_beta_fast");
    c.rope_beta_slow = field<double>(d, "rope_beta_slow");
    c.rope_truncate = field<bool>(d, "rope_truncate");
    c.rms_norm_eps = field<double>(d, "rms_norm_eps");
    c.swiglu_limit = field<double>(d, "swiglu_limit");
    for (bool windowed : field<std::vector<bool>>(d, "windowed")) c.windowed.push_back(windowed);
    validate(c);
    return c;
}

std::unique_ptr<LoadedModel> place(const ModelConfig& config,
                                   std::shared_ptr<const Published> published,
                                   const Options& options, const py::object& progress, bool wait) {
    if (!wait && !progress.is_none())
        throw InvalidArgument("progress is called where wait is True; else loaded tells of it");
    auto backend = make_backend(options.device, options.precision, options.threads);
    const Progress report = [&progress](uint64_t done, uint64_t total) {
        const TakeGil gil;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (!progress.is_none()) progress(done, total);
    };
    ReleaseGil release;
    const DefaultFloatEnvironment environment;
    const size_t before = backend->available_bytes();
    auto weights = place_model(*backend, config, std::move(published), options.dense,
                               wait ? Loading{report} : Loading{.wait = false});
    const std::shared_ptr<Arrival> arrival = weights->arriving.get();
    // Weights that are to come have not taken their memory yet.
    const size_t available =
        arrival ? before - std::min(before, weights->bytes) : backend->available_bytes();
    const EngineLimits limits = engine_limits(options, available);
    auto model = std::make_unique<Model>(config, std::move(backend), std::move(weights), options.kv,
                                         options.deterministic);
    return std::make_unique<LoadedModel>(std::make_shared<Engine>(std::move(model), limits),
                                         arrival);
}

std::shared_ptr<const Published> published(const ModelConfig& config,
                                           const std::vector<TensorSpec>& specs,
                                           std::unique_ptr<const TensorSource> source) {
    ModelTensors tensors = find_tensors(config, specs, *source);
    return std::make_shared<const Published>(Published{std::move(source), std::move(tensors)});
}

using SpecTuple = std::tuple<std::string, std::string, std::vector<int64_t>, int, uint64_t>;

DType to_dtype(const std::string& name) {
    return static_cast<DType>(
        choose("dtype", py::str(name),
               {{"U8", int(DType::kU8)}, {"BF16", int(DType::kBf16)}, {"F32", int(DType::kF32)}}));
}

std::unique_ptr<LoadedModel> load(const py::dict& config_dict,
                                  const std::vector<std::string>& files,
                                  const std::vector<SpecTuple>& tensors, const py::object& device,
                                  const py::object& dense, const py::object& precision,
                                  const py::object& kv, const py::object& threads,
                                  const py::object& deterministic, const py::dict& limits,
                                  const py::object& progress, const py::object& wait) {
    Options options = to_options(device, dense, precision, kv, threads);
    options.deterministic = to_flag("deterministic", deterministic);
    read_limits(options, limits);
    std::vector<TensorSpec> specs;
    for (const auto& [name, dtype, shape, file, offset] : tensors)
        specs.push_back({name, to_dtype(dtype), shape, file, offset});
    auto source = std::make_unique<FileSource>(files, specs);
    ModelConfig config;
    try {
        config = to_config(config_dict);
    } catch (const InvalidArgument& e) {
        throw CheckpointError(message(source->folder(), "/config.json: ", e.what()));
    }
    return place(config, published(config, specs, std::move(source)), options, progress,
                 to_flag("wait", wait));
}

std::unique_ptr<LoadedModel> random(const py::dict& config_dict, const py::object& seed,
                                    const py::object& device, const py::object& dense,
                                    const py::object& precision, const py::object& kv,
                                    const py::object& threads, const py::object& deterministic,
                                    const py::dict& limits, const py::object& progress) {
    Options options = to_options(device, dense, precision, kv, threads);
    options.deterministic = to_flag("deterministic", deterministic);
    read_limits(options, limits);
    const ModelConfig config = to_config(config_dict);
    const DefaultFloatEnvironment environment;
    auto source = std::make_unique<RandomSource>(to_seed(seed));
    return place(config, published(config, expected_tensors(config), std::move(source)), options,
                 progress, true);
}

// The longest context of one session that fits beside what is taken; 0 if none.
int fitting_context(const ModelConfig& config, const KvGeometry& kv, size_t available,
                    size_t taken) {
    int fits = 0, too_long = config.max_context + 1;
    while (too_long - fits > 1) {
        const int middle = fits + (too_long - fits) / 2;
        (taken + kv.bytes(middle) <= available ? fits : too_long) = middle;
    }
    return fits;
}

py::dict plan(const py::dict& config_dict, const py::object& device, const py::object& dense,
              const py::object& precision, const py::object& kv, const py::object& threads,
              const py::object& max_context_object) {
    const Options options = to_options(device, dense, precision, kv, threads);
    const ModelConfig config = to_config(config_dict);
    const auto max_context =
        static_cast<int>(to_integer("max_context", max_context_object, 1, config.max_context));
    const auto backend = make_backend(options.device, options.precision, options.threads);
    const PlacedModel outline = backend->outline(config, options.dense);
    const KvGeometry geometry(config, options.kv, backend->traits());
    py::dict out;
    out["weight_bytes"] = outline.bytes;
    const size_t scratch =
        step_buffer_bytes(config, backend->traits()) + backend->scratch_bytes(config);
    const size_t taken = outline.bytes + scratch;
    out["scratch_bytes"] = scratch;
    out["cache_bytes"] = geometry.bytes(max_context);
    const size_t available = backend->available_bytes();
    out["available_bytes"] = available;
    out["fitting_max_context"] = fitting_context(config, geometry, available, taken);
    out["device"] = options.device.kind;
    out["decode_bytes"] = decode_bytes(config, outline, geometry, 0);
    out["decode_bytes_at_max_context"] = decode_bytes(config, outline, geometry, max_context - 1);
    return out;
}

py::dict caches(const EngineUse& use) {
    py::dict out;
    out["kv_bytes"] = use.kv_bytes;
    out["kv_used_bytes"] = use.kv_used;
    out["kv_promised_bytes"] = use.kv_promised;
    out["kv_spilled_bytes"] = use.kv_spilled;
    out["prefix_bytes"] = use.prefix_bytes;
    out["prefix_used_bytes"] = use.prefix_used;
    out["prefixes"] = use.prefixes;
    out["streams"] = use.streams;
    out["waiting"] = use.waiting;
    return out;
}

void wait(const LoadedModel& self) {
    const Interrupt interrupt = python_signals();
    ReleaseGil release;
    self.wait(interrupt);
}

py::dict info(const LoadedModel& self) {
    ModelConfig config;
    size_t weight_bytes = 0, scratch_bytes = 0;
    bool deterministic = false;
    const char* kv = "";
    EngineUse use;
    std::vector<std::pair<std::string, std::string>> kernels;
    std::vector<std::pair<std::string, double>> dense_errors;
    wait(self);
    {
        ReleaseGil release;
        self.engine().with_model([&](Model& model) {
            config = model.config();
            weight_bytes = model.weights().bytes;
            scratch_bytes = model.scratch_bytes();
            deterministic = model.deterministic();
            kv = kv_name(model.kv().type);
            kernels = model.backend().describe();
            dense_errors = model.weights().dense_errors;
            use = self.engine().use();
        });
    }
    py::dict out, backend, errors;
    out["vocab_size"] = config.vocab_size;
    out["max_context"] = config.max_context;
    out["layers"] = config.layers;
    out["experts"] = config.experts;
    out["weight_bytes"] = weight_bytes;
    out["scratch_bytes"] = scratch_bytes;
    out["kv"] = kv;
    out["deterministic"] = deterministic;
    for (const auto& [name, value] : kernels) backend[name.c_str()] = value;
    for (const auto& [name, error] : dense_errors) errors[name.c_str()] = error;
    out["caches"] = caches(use);
    out["backend"] = backend;
    out["dense_errors"] = errors;
    return out;
}

size_t decode_step_bytes(const LoadedModel& self, const py::object& position) {
    const int64_t at = to_integer("position", position);
    ReleaseGil release;
    return self.engine().with_model([&](Model& model) {
        const int most = model.config().max_context - 1;
        if (at < 0 || at > most)
            throw InvalidArgument(message("position is ", at, ", wanted 0 to ", most));
        return decode_bytes(model.config(), model.weights(), model.kv(), static_cast<int>(at));
    });
}

double read_rate(const LoadedModel& self) {
    self.wait({});
    return self.engine().with_model([](Model& model) {
        constexpr size_t kMost = size_t{3} << 30;
        const StageMemory& memory = model.weights().memory;
        return model.backend().read_rate(memory.data(), std::min(memory.size(), kMost));
    });
}

double copy_rate(const LoadedModel& self, size_t bytes) {
    return self.engine().with_model([&](Model& model) { return model.backend().copy_rate(bytes); });
}

std::shared_ptr<Session> session(const LoadedModel& self, const py::object& max_context) {
    const auto wanted = to_optional_integer("max_context", max_context);
    const auto engine = self.shared_engine();
    ReleaseGil release;
    const int most = engine->with_model([](Model& model) { return model.config().max_context; });
    return Session::open(engine, wanted.value_or(most));
}

}  // namespace

void bind_model(py::module_& m) {
    const auto release = py::call_guard<ReleaseGil>();
    py::class_<LoadedModel>(m, "Model", "A model in memory. Made by load() or random().")
        .def_static("load", &load, py::arg("config"), py::arg("files"), py::arg("tensors"),
                    py::kw_only(), py::arg("device") = "auto", py::arg("dense") = "bf16",
                    py::arg("precision") = "fast", py::arg("kv") = "f16",
                    py::arg("threads") = py::none(), py::arg("deterministic") = false,
                    py::arg("limits") = py::dict(), py::arg("progress") = py::none(),
                    py::arg("wait") = true,
                    "Places the tensors (name, dtype, shape, file, offset) of `files`.")
        .def_static("random", &random, py::arg("config"), py::kw_only(), py::arg("seed") = 0,
                    py::arg("device") = "auto", py::arg("dense") = "bf16",
                    py::arg("precision") = "fast", py::arg("kv") = "f16",
                    py::arg("threads") = py::none(), py::arg("deterministic") = false,
                    py::arg("limits") = py::dict(), py::arg("progress") = py::none(),
                    "Random weights of the given shape.")
        .def("session", &session, py::arg("max_context") = py::none())
        .def(
            "load_session",
            [](const LoadedModel& self, const std::string& path) {
                return Session::load(self.shared_engine(), path);
            },
            py::arg("path"), release)
        .def(
            "close", [](const LoadedModel& self) { self.close(); }, release)
        .def("wait", &wait, "Waits until the weights are there; raises what became of them.")
        .def_property_readonly("loaded", &LoadedModel::loaded,
                               "Of the published bytes, those that are there, from 0 to 1.")
        .def_property_readonly("closed",
                               [](const LoadedModel& self) { return self.engine().closed(); })
        .def("info", &info)
        .def("read_rate", &read_rate, release,
             "Bytes a second that the device reads from the weights, without arithmetic.")
        .def("copy_rate", &copy_rate, py::arg("bytes"), release,
             "Bytes a second that the device reads and writes while it copies so many bytes.")
        .def("decode_bytes", &decode_step_bytes, py::arg("position") = 0,
             "Bytes that decoding one token at the position reads.");
    m.def("plan", &plan, py::arg("config"), py::kw_only(), py::arg("device") = "auto",
          py::arg("dense") = "bf16", py::arg("precision") = "fast", py::arg("kv") = "f16",
          py::arg("threads") = py::none(), py::arg("max_context"),
          "Bytes that a model of this shape takes; loads nothing.");
}

}  // namespace gptoss

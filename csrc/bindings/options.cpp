#include "bindings/options.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/thread_pool.h"
#include "bindings/numbers.h"

namespace py = pybind11;

namespace gptoss {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 50;

// "f16" is float32 in exact precision: what follows from that.
DType to_kv(const py::object& kv, Precision precision) {
    const auto type = static_cast<DType>(
        choose("kv", kv, {{"f16", int(DType::kF16)}, {"fp8", int(DType::kFp8)}}));
    if (precision == Precision::kFast) return type;
    if (type == DType::kFp8)
        throw InvalidArgument(
            "kv is \"fp8\" and precision \"exact\", which keeps float32 keys and values; wanted "
            "precision \"fast\" or kv \"f16\"");
    return DType::kF32;
}

}  // namespace

int choose(const char* name, py::handle value, std::initializer_list<NamedChoice> choices) {
    std::string known;
    for (const auto& [word, meaning] : choices) {
        if (py::isinstance<py::str>(value) && value.equal(py::str(word))) return meaning;
        known += (known.empty() ? "\"" : ", \"") + std::string(word) + "\"";
    }
    throw InvalidArgument(message(name, " is ", shown(value), ", wanted ", known));
}

Options to_options(const py::object& device, const py::object& dense, const py::object& precision,
                   const py::object& kv, const py::object& threads) {
    Options o;
    o.device = to_device(device);
    o.dense = static_cast<WeightFormat>(choose(
        "dense", dense, {{"bf16", int(WeightFormat::kBf16)}, {"int8", int(WeightFormat::kInt8)}}));
    o.precision = static_cast<Precision>(
        choose("precision", precision,
               {{"exact", int(Precision::kExact)}, {"fast", int(Precision::kFast)}}));
    o.kv = to_kv(kv, o.precision);
    // 0 stands for all that the process may use.
    o.threads =
        static_cast<int>(to_optional_integer("threads", threads, 1, kMostThreads).value_or(0));
    return o;
}

void read_limits(Options& options, const py::dict& limits) {
    const auto given = [&](const char* name) -> py::object {
        return limits.contains(name) ? py::object(limits[name]) : py::none();
    };
    const auto bytes = [&](const char* name) -> std::optional<size_t> {
        const auto value = to_optional_integer(name, given(name), 0, kMostBytes);
        return value ? std::optional<size_t>(*value) : std::nullopt;
    };
    options.kv_bytes = bytes("kv_bytes");
    options.prefix_bytes = bytes("prefix_bytes");
    if (const auto most = to_optional_integer("max_streams", given("max_streams"), 1, 4096))
        options.streams = static_cast<int>(*most);
    if (const auto most = to_optional_integer("max_waiting", given("max_waiting"), 0, 4096))
        options.waiting = static_cast<int>(*most);
}

EngineLimits engine_limits(const Options& options, size_t available) {
    EngineLimits out;
    out.kv_bytes = options.kv_bytes.value_or(available ? available / 2 : out.kv_bytes);
    out.prefix_bytes =
        std::min(out.kv_bytes,
                 options.prefix_bytes.value_or(available ? out.kv_bytes / 2 : size_t{1} << 30));
    out.streams = options.streams;
    out.waiting = options.waiting;
    return out;
}

}  // namespace gptoss

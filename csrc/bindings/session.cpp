// Session, its stream of tokens, and sampling options.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/constraint.h"
#include "bindings/numbers.h"
#include "session/generation.h"
#include "session/stream_reader.h"

namespace py = pybind11;

namespace gptoss {
namespace {

using Ids = std::vector<int64_t>;

py::array_t<float> logits(Session& self, const Ids& ids) {
    {
        ReleaseGil release;
        self.check(ids);
    }
    py::array_t<float> out(
        {static_cast<py::ssize_t>(ids.size()), static_cast<py::ssize_t>(self.vocab_size())});
    float* data = out.mutable_data();
    const Interrupt signals = python_signals();
    ReleaseGil release;
    self.logits(ids, data, signals);
    return out;
}

py::tuple to_tuple(const Usage& usage) {
    return py::make_tuple(usage.cached_tokens, usage.prefilled_tokens);
}

py::tuple prefill(Session& self, const Ids& ids) {
    const Interrupt signals = python_signals();
    Usage usage;
    {
        ReleaseGil release;
        usage = self.prefill(ids, signals);
    }
    return to_tuple(usage);
}

py::tuple usage(const Session& self) {
    Usage usage;
    {
        ReleaseGil release;
        usage = self.usage();
    }
    return to_tuple(usage);
}

GenerateOptions to_options(const py::object& priority, const py::object& timeout,
                           const py::object& lookup) {
    GenerateOptions out;
    out.priority = static_cast<int>(to_integer("priority", priority, -1000, 1000));
    if (!timeout.is_none()) out.timeout_s = to_number("timeout", timeout);
    if (out.timeout_s && !(*out.timeout_s > 0))
        throw InvalidArgument(message("timeout is ", *out.timeout_s, " s, wanted more than 0"));
    out.lookup = to_flag("lookup", lookup);
    return out;
}

std::shared_ptr<Generation> generate(Session& self, const Ids& ids,
                                     std::optional<int64_t> max_new_tokens,
                                     const Sampling& sampling, const Ids& stop_ids,
                                     const py::object& priority, const py::object& timeout,
                                     const py::object& lookup) {
    GenerateOptions options = to_options(priority, timeout, lookup);
    options.max_new_tokens = max_new_tokens;
    options.sampling = sampling;
    options.stop_ids = stop_ids;
    ReleaseGil release;
    return self.generate(ids, std::move(options));
}

std::shared_ptr<Generation> resume(Session& self, std::optional<int64_t> max_new_tokens,
                                   const py::object& priority, const py::object& timeout,
                                   const py::object& lookup) {
    const GenerateOptions options = to_options(priority, timeout, lookup);
    ReleaseGil release;
    return self.resume(max_new_tokens, options);
}

const char* reason_name(FinishReason reason) {
    switch (reason) {
        case FinishReason::kStop: return "stop";
        case FinishReason::kLength: return "length";
        case FinishReason::kCancelled: return "cancelled";
        case FinishReason::kTimeout: return "timeout";
        default: return nullptr;
    }
}

py::dict stats(const Generation& self) {
    GenerationStats s;
    {
        ReleaseGil release;
        s = self.stats();
    }
    const int decoded = s.generated_tokens - 1;
    py::dict out;
    out["cached_tokens"] = s.cached_tokens;
    out["prefilled_tokens"] = s.prefilled_tokens;
    out["generated_tokens"] = s.generated_tokens;
    out["drafted_tokens"] = s.drafted_tokens;
    out["accepted_tokens"] = s.accepted_tokens;
    out["forced_tokens"] = s.forced_tokens;
    out["ttft_s"] = s.ttft_s;
    out["decode_s"] = s.decode_s;
    out["tokens_per_s"] = decoded > 0 && s.decode_s > 0 ? decoded / s.decode_s : 0.0;
    out["finish_reason"] = reason_name(s.finish_reason);
    out["seed"] = s.seed;
    return out;
}

// (id, logprob, [(id, logprob), ...]), or None when finished.
py::object to_python(const std::optional<GeneratedToken>& token) {
    if (!token) return py::none();
    py::tuple top(token->top_logprobs.size());
    for (size_t i = 0; i < token->top_logprobs.size(); ++i)
        top[i] = py::make_tuple(token->top_logprobs[i].token, token->top_logprobs[i].logprob);
    return py::make_tuple(token->id, token->logprob, top);
}

// With the GIL, which the constraint needs.
void tell(Generation& self, const Constraint& constraint, int token) {
    if (self.tell(constraint, token, /*may_wait=*/false)) return;
    ReleaseGil release;
    self.tell(constraint, token, /*may_wait=*/true);
}

py::object next(Generation& self, const py::object& constraint) {
    std::optional<GeneratedToken> token;
    std::optional<Constraint> calls;
    if (!constraint.is_none()) calls = python_constraint(constraint, PyThread_get_thread_ident());
    try {
        {
            const Interrupt signals = python_signals();
            ReleaseGil release;
            token = self.next(signals, calls ? &*calls : nullptr);
        }
        if (token && !token->told) tell(self, *calls, token->id);
    } catch (const PythonFailure& failure) {
        failure.raise();
    }
    return to_python(token);
}

void begin(StreamReader& self, std::shared_ptr<Generation> stream, uint64_t key,
           const py::object& constraint) {
    if (constraint.is_none()) return self.begin(std::move(stream), key, nullptr);
    // The object stays for as long as it may be called, which is with the GIL.
    const std::shared_ptr<py::object> held(new py::object(constraint), [](py::object* object) {
        const TakeGil gil;
        delete object;
    });
    // No Python thread asks for the token.
    struct Calls {
        std::shared_ptr<py::object> held;
        Constraint constraint;
    };
    const auto calls = std::make_shared<Calls>(Calls{held, python_constraint(*held, 0)});
    self.begin(std::move(stream), key, {calls, &calls->constraint});
}

// [(key, token or None, exception or None), ...]
py::list take(StreamReader& self) {
    py::list out;
    for (ReadToken& read : self.take()) {
        try {
            if (read.token && !read.token->told)
                tell(*read.stream, *read.constraint, read.token->id);
        } catch (...) {
            read.token.reset();
            read.failure = std::current_exception();
        }
        const py::object failure =
            read.failure ? gptoss::to_python(std::exchange(read.failure, nullptr)) : py::none();
        out.append(py::make_tuple(read.key, to_python(read.token), failure));
    }
    return out;
}

Sampling make_sampling(const py::object& temperature, const py::object& top_k,
                       const py::object& top_p, const py::object& min_p,
                       const py::object& repetition_penalty, const py::object& presence_penalty,
                       const py::object& frequency_penalty, const py::object& logit_bias,
                       const py::object& seed, const py::object& logprobs) {
    Sampling s;
    s.temperature = to_number("temperature", temperature);
    s.top_k = to_integer("top_k", top_k);
    s.top_p = to_number("top_p", top_p);
    s.min_p = to_number("min_p", min_p);
    s.repetition_penalty = to_number("repetition_penalty", repetition_penalty);
    s.presence_penalty = to_number("presence_penalty", presence_penalty);
    s.frequency_penalty = to_number("frequency_penalty", frequency_penalty);
    if (!logit_bias.is_none()) {
        if (!py::isinstance<py::dict>(logit_bias))
            throw InvalidArgument(message("logit_bias is ", shown(logit_bias),
                                          ", wanted a dict of token ids to numbers"));
        for (const auto& [token, bias] : py::cast<py::dict>(logit_bias))
            s.logit_bias[to_integer("a token id of logit_bias", token)] =
                to_number("a value of logit_bias", bias);
    }
    if (!seed.is_none()) s.seed = to_seed(seed);
    s.logprobs = to_integer("logprobs", logprobs);
    validate(s);
    return s;
}

}  // namespace

void bind_sampling(py::module_& m) {
    py::class_<Sampling>(m, "Sampling", "Checked sampling options.")
        .def(py::init(&make_sampling), py::kw_only(), py::arg("temperature") = 1.0,
             py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("min_p") = 0.0,
             py::arg("repetition_penalty") = 1.0, py::arg("presence_penalty") = 0.0,
             py::arg("frequency_penalty") = 0.0, py::arg("logit_bias") = py::none(),
             py::arg("seed") = py::none(), py::arg("logprobs") = 0);
}

void bind_session(py::module_& m) {
    const auto release = py::call_guard<ReleaseGil>();
    py::class_<Generation, std::shared_ptr<Generation>>(m, "Generation")
        .def("next", &next, py::arg("constraint") = py::none())
        .def("cancel", &Generation::cancel, release)
        .def("stop", &Generation::stop, release)
        .def("take_back", &Generation::take_back, release)
        .def("stats", &stats);
    py::class_<StreamReader>(m, "StreamReader")
        .def(py::init<>())
        .def("fileno", &StreamReader::descriptor)
        .def("begin", &begin, py::arg("stream"), py::arg("key"), py::arg("constraint"))
        .def("take", &take);
    py::class_<Session, std::shared_ptr<Session>>(m, "Session")
        .def("prefill", &prefill, py::arg("ids"))
        .def("logits", &logits, py::arg("ids"))
        .def("generate", &generate, py::arg("ids"), py::kw_only(), py::arg("max_new_tokens"),
             py::arg("sampling"), py::arg("stop_ids"), py::arg("priority") = 0,
             py::arg("timeout") = py::none(), py::arg("lookup") = true)
        .def("resume", &resume, py::kw_only(), py::arg("max_new_tokens") = py::none(),
             py::arg("priority") = 0, py::arg("timeout") = py::none(), py::arg("lookup") = true)
        .def("streamed", &Session::streamed, release)
        .def("usage", &usage)
        .def("fork", &Session::fork, release)
        .def("save", &Session::save, py::arg("path"), release)
        .def(
            "rewind",
            [](Session& self, const py::object& position) {
                const int64_t kept = to_integer("position", position);
                ReleaseGil release;
                self.rewind(kept);
            },
            py::arg("position"))
        .def("close", &Session::close, release)
        .def("tokens", &Session::tokens, release)
        .def("position", &Session::position)
        .def("cache_bytes", &Session::cache_bytes, release)
        .def("closed", &Session::closed)
        .def_property_readonly("max_context", &Session::max_context);
}

}  // namespace gptoss

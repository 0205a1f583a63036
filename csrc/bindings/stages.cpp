// The stages one by one, for tests (StageRunner) and microbenchmarks (time_stage).
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "model/stage_runner.h"
#include "model/stage_timer.h"
#include "session/sampling.h"

namespace py = pybind11;

namespace gptoss {
namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Masks = py::array_t<uint32_t, py::array::c_style | py::array::forcecast>;
using Pairs = std::vector<std::pair<int, int>>;

StageRunner::Floats floats(const Array& a) { return {a.data(), a.data() + a.size()}; }

Array rows_of(const StageRunner::Floats& values, py::ssize_t width) {
    Array out({static_cast<py::ssize_t>(values.size()) / width, width});
    std::copy(values.begin(), values.end(), out.mutable_data());
    return out;
}

py::list pairs_of(const std::vector<TopLogprob>& tokens) {
    py::list out;
    for (const TopLogprob& t : tokens) out.append(py::make_tuple(t.token, t.logprob));
    return out;
}

StageRunner::Positions positions(const Pairs& pairs) {
    StageRunner::Positions out;
    for (const auto& [sequence, position] : pairs) out.push_back({sequence, position});
    return out;
}

// Holds the engine's lock during each call, and the engine for its own life.
class Stages {
    // Arrays may be read without the GIL: the caller's frame holds them.
    template <class Use>
    auto with(Use use) {
        ReleaseGil release;
        return engine_->with_model(use);
    }

  public:
    Stages(std::shared_ptr<Engine> engine, int sequences, int max_context, Form form)
        : engine_(std::move(engine)) {
        with([&](Model& model) {
            config_ = model.config();
            runner_ = std::make_unique<StageRunner>(model, sequences, max_context, form);
        });
    }

    Array embed(const std::vector<int>& ids) {
        return rows_of(with([&](Model&) { return runner_->embed(ids); }), config_.hidden_size);
    }
    Array qkv(int layer, const Array& x, const Pairs& at) {
        return rows_of(with([&](Model&) { return runner_->qkv(layer, floats(x), positions(at)); }),
                       config_.query_rows());
    }
    Array cached(int layer, std::pair<int, int> at) {
        return rows_of(with([&](Model&) { return runner_->cached(layer, {at.first, at.second}); }),
                       config_.kv_heads * config_.head_dim);
    }
    void set_cached(int layer, std::pair<int, int> at, const Array& key_value) {
        with([&](Model&) { runner_->set_cached(layer, {at.first, at.second}, floats(key_value)); });
    }
    Array attention(int layer, const Array& q, const Pairs& at) {
        return rows_of(
            with([&](Model&) { return runner_->attention(layer, floats(q), positions(at)); }),
            config_.query_rows());
    }
    Array attn_out(int layer, const Array& attention, const Array& x) {
        return rows_of(
            with([&](Model&) { return runner_->attn_out(layer, floats(attention), floats(x)); }),
            config_.hidden_size);
    }
    py::dict experts(int layer, const Array& x) {
        const auto e = with([&](Model&) { return runner_->experts(layer, floats(x)); });
        const py::ssize_t top_k = config_.experts_per_token;
        const auto tokens = static_cast<py::ssize_t>(e.expert.size()) / top_k;
        py::array_t<int> expert({tokens, top_k});
        std::copy(e.expert.begin(), e.expert.end(), expert.mutable_data());
        py::dict out;
        out["expert"] = expert;
        out["weight"] = rows_of(e.weight, top_k);
        out["h"] = rows_of(e.h, config_.hidden_size);
        out["act"] = rows_of(e.act, config_.intermediate_size);
        out["x"] = rows_of(e.x, config_.hidden_size);
        return out;
    }
    Array logits(const Array& x, const std::vector<int>& which) {
        return rows_of(with([&](Model&) { return runner_->logits(floats(x), which); }),
                       config_.vocab_size);
    }
    py::tuple sample(const Array& logits, const Sampling& sampling, const Masks& masks,
                     const Pairs& seen) {
        validate(sampling, config_.vocab_size);
        StageRunner::Sampling s = {parameters(sampling), {}, {}, {}, 0};
        for (const auto& [token, bias] : sampling.logit_bias)
            s.bias.push_back({static_cast<int>(token), bias});
        for (const auto& [token, generated] : seen) s.seen.push_back({token, generated});
        s.masks.assign(masks.data(), masks.data() + masks.size());
        s.top_logprobs = static_cast<int>(sampling.logprobs);
        const auto choices = with([&](Model&) { return runner_->sample(floats(logits), s); });
        return py::make_tuple(pairs_of(choices.chosen), pairs_of(choices.top));
    }

  private:
    const std::shared_ptr<Engine> engine_;
    ModelConfig config_;
    std::unique_ptr<StageRunner> runner_;
};

py::dict time(const LoadedModel& self, const std::string& stage, int tokens, int context, int calls,
              bool decode) {
    StageTiming t;
    {
        ReleaseGil release;
        t = self.engine().with_model([&](Model& model) {
            const Form form = decode ? Form::kDecode : Form::kPrefill;
            return time_stage(model, stage, {form, tokens, context, calls});
        });
    }
    py::dict out;
    out["seconds"] = t.seconds;
    out["bytes"] = t.bytes;
    out["operations"] = t.operations;
    return out;
}

}  // namespace

void bind_stages(py::module_& m) {
    py::class_<Stages>(m, "Stages", R"(The stages one by one over a model's weights, for tests.

Arrays are float32; csrc/model/stage_runner.h gives the shapes. Positions are pairs (sequence,
position). Caches start as NaN. Raises InvalidArgument.)")
        .def(py::init([](const LoadedModel& model, int sequences, int max_context, bool decode) {
                 return std::make_unique<Stages>(model.shared_engine(), sequences, max_context,
                                                 decode ? Form::kDecode : Form::kPrefill);
             }),
             py::arg("model"), py::kw_only(), py::arg("sequences") = 1,
             py::arg("max_context") = 1024, py::arg("decode") = false)
        .def("embed", &Stages::embed, py::arg("ids"))
        .def("qkv", &Stages::qkv, py::arg("layer"), py::arg("x"), py::arg("at"))
        .def("cached", &Stages::cached, py::arg("layer"), py::arg("at"))
        .def("set_cached", &Stages::set_cached, py::arg("layer"), py::arg("at"),
             py::arg("key_value"))
        .def("attention", &Stages::attention, py::arg("layer"), py::arg("q"), py::arg("at"))
        .def("attn_out", &Stages::attn_out, py::arg("layer"), py::arg("attention"), py::arg("x"))
        .def("experts", &Stages::experts, py::arg("layer"), py::arg("x"))
        .def("logits", &Stages::logits, py::arg("x"), py::arg("which"))
        .def("sample", &Stages::sample, py::arg("logits"), py::arg("sampling"), py::arg("masks"),
             py::arg("seen"));
    m.def("time_stage", &time, py::arg("model"), py::arg("stage"), py::kw_only(), py::arg("tokens"),
          py::arg("context"), py::arg("calls"), py::arg("decode"),
          "Median seconds of a call, and the bytes and operations it needs.");
    m.def("timed_stages", &timed_stages, "The names time_stage takes.");
}

}  // namespace gptoss

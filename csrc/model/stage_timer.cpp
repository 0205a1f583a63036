#include "model/stage_timer.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/random.h"

namespace gptoss {
namespace {

// What the stages work on: random activations, and a cache of zeros for one sequence.
struct Bench {
    Bench(Model& model, int tokens, int context, Form form)
        : model(model), c(model.config()), tokens(tokens), context(context), form(form) {
        const size_t pairs = size_t(tokens) * c.experts_per_token;
        const KvGeometry& kv = model.kv();
        cache = random_cache(kv.bytes(context + tokens));
        std::vector<std::byte*> pages;
        for (int p = 0; p < kv.pages(context + tokens); ++p)
            pages.push_back(cache.data() + kv.ring_bytes + p * kv.page_bytes);
        table = filled(sizeof(KvView) + pages.size() * sizeof(std::byte*), 0);
        auto* page_table = reinterpret_cast<std::byte**>(table.data() + sizeof(KvView));
        const KvView view = {page_table, cache.data()};
        Backend& backend = model.backend();
        backend.write(table.data(), &view, sizeof(view));
        backend.write(page_table, pages.data(), pages.size() * sizeof(std::byte*));
        std::vector<Row> host_rows;
        for (int t = 0; t < tokens; ++t)
            host_rows.push_back({0, context + t, reinterpret_cast<const KvView*>(table.data())});
        rows = filled(tokens * sizeof(Row), 0);
        backend.write(rows.data(), host_rows.data(), host_rows.size() * sizeof(Row));
        h = filled(size_t(tokens) * c.hidden_size * model.traits().activation_bytes, 0);
        act = filled(pairs * c.intermediate_size * model.traits().activation_bytes, 0);
        q = random(size_t(tokens) * c.query_rows(), 2);
        out = random(size_t(tokens) * c.query_rows(), 3);
        x = random(size_t(tokens) * c.hidden_size, 1);
        weight = filled(pairs * sizeof(float), 0);
        expert = filled(pairs * sizeof(int), 0);
        outputs = std::min(tokens, model.traits().decode_rows);
        logits = random(size_t(outputs) * c.vocab_size, 4);
        which = filled(outputs * sizeof(int), 0);
        std::vector<SampleRow> host_sample(outputs);
        sample = filled(outputs * sizeof(SampleRow), 0);
        backend.write(sample.data(), host_sample.data(), outputs * sizeof(SampleRow));
        chosen = filled(outputs * sizeof(TopLogprob), 0);
        top = filled(size_t(outputs) * kMostTopLogprobs * sizeof(TopLogprob), 0);
        route(0);
        model.moe_up(0, tokens, form, h.data(), ints(expert), act.data());
    }

    StageMemory filled(size_t bytes, int value) {
        StageMemory memory = model.backend().allocate(bytes, "timing a stage");
        const std::vector<uint8_t> bytes_here(bytes, static_cast<uint8_t>(value));
        model.backend().write(memory.data(), bytes_here.data(), bytes);
        return memory;
    }
    // Keys and values in [-1, 1], one piece of them over and over.
    StageMemory random_cache(size_t bytes) {
        constexpr size_t kPiece = size_t{1} << 20;
        std::vector<std::byte> piece(kPiece);
        with_kv_type(model.kv().type, [&]<class T>(T) {
            for (size_t i = 0; i < kPiece / sizeof(T); ++i) {
                const auto value = static_cast<float>(2 * random_unit(5, i) - 1);
                const T rounded = from_float<T>(value);
                std::memcpy(piece.data() + sizeof(T) * i, &rounded, sizeof(T));
            }
        });
        StageMemory memory = model.backend().allocate(bytes, "timing a stage");
        for (size_t at = 0; at < bytes; at += kPiece)
            model.backend().write(memory.data() + at, piece.data(), std::min(kPiece, bytes - at));
        return memory;
    }
    StageMemory random(size_t count, uint64_t key) {
        std::vector<float> values(count);
        for (size_t i = 0; i < count; ++i)
            values[i] = static_cast<float>(2 * random_unit(key, i) - 1);
        StageMemory memory = model.backend().allocate(count * sizeof(float), "timing a stage");
        model.backend().write(memory.data(), values.data(), count * sizeof(float));
        return memory;
    }
    static float* floats(const StageMemory& m) { return reinterpret_cast<float*>(m.data()); }
    static int* ints(const StageMemory& m) { return reinterpret_cast<int*>(m.data()); }
    const Row* row() const { return reinterpret_cast<const Row*>(rows.data()); }

    // Other experts for each layer; reads its router alone.
    void route(int layer) {
        model.router(layer, tokens, form, floats(x), h.data(), ints(expert), floats(weight));
    }
    double chosen_experts() {
        std::vector<int> chosen(size_t(tokens) * c.experts_per_token);
        model.backend().read(chosen.data(), expert.data(), chosen.size() * sizeof(int));
        return static_cast<double>(std::set<int>(chosen.begin(), chosen.end()).size());
    }

    Model& model;
    const ModelConfig& c;
    const int tokens, context;
    const Form form;
    int outputs = 0;
    StageMemory cache, table, rows, x, h, q, out, act, weight, expert, logits, which, sample;
    StageMemory chosen, top;
};

struct Cost {
    double bytes, operations;
};

Cost product_cost(const Matrix& m, double matrices, double rows) {
    return {matrices * static_cast<double>(m.data_stride + m.scale_stride),
            2.0 * m.rows * m.columns * rows};
}

Cost attention_cost(const Bench& b, int layer) {
    const KvLayer& kv = b.model.kv().layers[layer];
    const auto seen = [&](int position) {
        return kv.window ? std::min(position + 1, kv.window) : position + 1;
    };
    // The union of the rows' keys, once.
    const double keys = std::min(seen(b.context) + b.tokens - 1, b.context + b.tokens);
    Cost cost{2 * keys * b.c.kv_heads * b.c.head_dim * static_cast<double>(dtype_bytes(kv.type)),
              0};
    for (int t = 0; t < b.tokens; ++t)
        cost.operations += 4.0 * seen(b.context + t) * b.c.query_rows();
    return cost;
}

struct TimedStage {
    const char* name;
    int kind;  // of layers: 0 full, 1 windowed, 2 all
    std::function<void(Bench&, int layer)> run;
    std::function<Cost(Bench&, const PlacedLayer&, int layer)> cost;
};

Cost experts_cost(Bench& b, const Matrix& m) {
    return product_cost(m, b.chosen_experts(), double(b.tokens) * b.c.experts_per_token);
}

const std::vector<TimedStage>& stages() {
    const auto attend = [](Bench& b, int layer) {
        b.model.attention(layer, b.row(), b.tokens, b.form, b.floats(b.q), b.floats(b.out));
    };
    const auto attend_cost = [](Bench& b, const PlacedLayer&, int layer) {
        return attention_cost(b, layer);
    };
    static const std::vector<TimedStage> all = {
        {"embed", 2, [](Bench& b, int) { b.model.embed(b.row(), b.tokens, b.floats(b.x)); },
         [](Bench& b, const PlacedLayer&, int) {
             return Cost{2.0 * b.tokens * b.c.hidden_size, 0};
         }},
        {"qkv", 2,
         [](Bench& b, int layer) {
             b.model.qkv(layer, b.row(), b.tokens, b.form, b.floats(b.x), b.floats(b.q));
         },
         [](Bench& b, const PlacedLayer& w, int) { return product_cost(w.qkv, 1, b.tokens); }},
        {"attention_window", 1, attend, attend_cost},
        {"attention_full", 0, attend, attend_cost},
        {"attn_out", 2,
         [](Bench& b, int layer) {
             b.model.attn_out(layer, b.tokens, b.form, b.floats(b.q), b.floats(b.x));
         },
         [](Bench& b, const PlacedLayer& w, int) { return product_cost(w.attn_out, 1, b.tokens); }},
        {"router", 2, [](Bench& b, int layer) { b.route(layer); },
         [](Bench& b, const PlacedLayer& w, int) { return product_cost(w.router, 1, b.tokens); }},
        {"moe_up", 2,
         [](Bench& b, int layer) {
             b.model.moe_up(layer, b.tokens, b.form, b.h.data(), b.ints(b.expert), b.act.data());
         },
         [](Bench& b, const PlacedLayer& w, int) { return experts_cost(b, w.moe_up); }},
        {"moe_down", 2,
         [](Bench& b, int layer) {
             b.model.moe_down(layer, b.tokens, b.form, b.act.data(), b.ints(b.expert),
                              b.floats(b.weight), b.floats(b.x));
         },
         [](Bench& b, const PlacedLayer& w, int) { return experts_cost(b, w.moe_down); }},
        {"logits", 2,
         [](Bench& b, int) {
             b.model.logits(b.floats(b.x), b.ints(b.which), b.outputs, b.floats(b.logits));
         },
         [](Bench& b, const PlacedLayer&, int) {
             return product_cost(b.model.weights().unembedding, 1, b.outputs);
         }},
        {"sample", 2,
         [](Bench& b, int) {
             b.model.backend().sample(
                 {b.floats(b.logits), reinterpret_cast<const SampleRow*>(b.sample.data()),
                  reinterpret_cast<TopLogprob*>(b.chosen.data()),
                  reinterpret_cast<TopLogprob*>(b.top.data()), b.outputs, b.c.vocab_size});
         },
         [](Bench& b, const PlacedLayer&, int) {
             return Cost{4.0 * b.outputs * b.c.vocab_size, 0};
         }},
    };
    return all;
}

}  // namespace

std::vector<std::string> timed_stages() {
    std::vector<std::string> names;
    for (const TimedStage& stage : stages()) names.emplace_back(stage.name);
    return names;
}

StageTiming time_stage(Model& model, const std::string& name, const TimedCall& call) {
    const auto stage = std::find_if(stages().begin(), stages().end(),
                                    [&](const TimedStage& s) { return s.name == name; });
    if (stage == stages().end()) throw InvalidArgument(message("stage is \"", name, "\""));
    const ModelConfig& c = model.config();
    const int most = model.step_rows(call.form);
    if (call.tokens < 1 || call.tokens > most || call.context < 0 ||
        call.context > c.max_context - call.tokens || call.calls < 1)
        throw InvalidArgument(message(call.tokens, " tokens from position ", call.context, " in ",
                                      call.calls, " calls, wanted 1 to ", most,
                                      " tokens, up to position ", c.max_context,
                                      ", 1 call or more"));
    std::vector<int> layers;
    for (int n = 0; n < c.layers; ++n)
        if (stage->kind == 2 || c.windowed[n] == stage->kind) layers.push_back(n);
    if (layers.empty()) throw InvalidArgument(message("no layer of this model has ", name));
    model.wait_for_weights({});

    Bench bench(model, call.tokens, call.context, call.form);
    const auto layer_of = [&](int i) { return layers[i % layers.size()]; };
    const double seconds =
        model.backend().time(call.calls, [&](int i) { stage->run(bench, layer_of(i)); });
    Cost total{0, 0};
    for (int i = 0; i < call.calls; ++i) {
        const Cost cost = stage->cost(bench, model.weights().layers[layer_of(i)], layer_of(i));
        total.bytes += cost.bytes;
        total.operations += cost.operations;
    }
    return {seconds, total.bytes / call.calls, total.operations / call.calls};
}

}  // namespace gptoss

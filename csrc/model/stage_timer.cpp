#include "model/stage_timer.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/random.h"

namespace gptoss {
namespace {

void fill_random(std::vector<float>& values, uint64_t key) {
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(2 * random_unit(key, i) - 1);
}

// What the stages work on: random activations, and a cache of zeros for one sequence.
struct Bench {
    Bench(Model& model, int tokens, int context)
        : model(model),
          c(model.config()),
          tokens(tokens),
          context(context),
          cache(model.kv().bytes(context + tokens), "a sequence's cache"),
          x(size_t(tokens) * c.hidden_size),
          h(x.size()),
          q(size_t(tokens) * c.query_rows()),
          out(q.size()),
          act(size_t(tokens) * c.experts_per_token * c.intermediate_size),
          weight(size_t(tokens) * c.experts_per_token),
          logits(c.vocab_size),
          expert(weight.size()) {
        std::memset(cache.data(), 0, cache.size());
        const KvGeometry& kv = model.kv();
        for (int p = 0; p < kv.pages(context + tokens); ++p)
            pages.push_back(cache.data() + kv.ring_bytes + p * kv.page_bytes);
        view = {pages.data(), cache.data()};
        for (int t = 0; t < tokens; ++t) rows.push_back({0, context + t, &view});
        fill_random(x, 1);
        fill_random(q, 2);
        route(0);
        model.moe_up(0, tokens, h.data(), expert.data(), act.data());
    }

    // Other experts for each layer; reads its router alone.
    void route(int layer) {
        model.router(layer, tokens, x.data(), h.data(), expert.data(), weight.data());
    }

    Model& model;
    const ModelConfig& c;
    const int tokens, context;
    Memory cache;
    std::vector<std::byte*> pages;
    KvView view;
    std::vector<Row> rows;
    std::vector<float> x, h, q, out, act, weight, logits;
    std::vector<int> expert;
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
    std::function<Cost(const Bench&, const PlacedLayer&, int layer)> cost;
};

double chosen_experts(const Bench& b) {
    return static_cast<double>(std::set<int>(b.expert.begin(), b.expert.end()).size());
}

const std::vector<TimedStage>& stages() {
    const auto attend = [](Bench& b, int layer) {
        b.model.attention(layer, b.rows, b.q.data(), b.out.data());
    };
    const auto attend_cost = [](const Bench& b, const PlacedLayer&, int layer) {
        return attention_cost(b, layer);
    };
    static const std::vector<TimedStage> all = {
        {"embed", 2, [](Bench& b, int) { b.model.embed(b.rows, b.x.data()); },
         [](const Bench& b, const PlacedLayer&, int) {
             return Cost{2.0 * b.tokens * b.c.hidden_size, 0};
         }},
        {"qkv", 2, [](Bench& b, int layer) { b.model.qkv(layer, b.rows, b.x.data(), b.q.data()); },
         [](const Bench& b, const PlacedLayer& w, int) {
             return product_cost(w.qkv, 1, b.tokens);
         }},
        {"attention_window", 1, attend, attend_cost},
        {"attention_full", 0, attend, attend_cost},
        {"attn_out", 2,
         [](Bench& b, int layer) { b.model.attn_out(layer, b.tokens, b.q.data(), b.x.data()); },
         [](const Bench& b, const PlacedLayer& w, int) {
             return product_cost(w.attn_out, 1, b.tokens);
         }},
        {"router", 2, [](Bench& b, int layer) { b.route(layer); },
         [](const Bench& b, const PlacedLayer& w, int) {
             return product_cost(w.router, 1, b.tokens);
         }},
        {"moe_up", 2,
         [](Bench& b, int layer) {
             b.model.moe_up(layer, b.tokens, b.h.data(), b.expert.data(), b.act.data());
         },
         [](const Bench& b, const PlacedLayer& w, int) {
             return product_cost(w.moe_up, chosen_experts(b), static_cast<double>(b.expert.size()));
         }},
        {"moe_down", 2,
         [](Bench& b, int layer) {
             b.model.moe_down(layer, b.tokens, b.act.data(), b.expert.data(), b.weight.data(),
                              b.x.data());
         },
         [](const Bench& b, const PlacedLayer& w, int) {
             return product_cost(w.moe_down, chosen_experts(b),
                                 static_cast<double>(b.expert.size()));
         }},
        {"logits", 2,
         [](Bench& b, int) {
             const int last = b.tokens - 1;
             b.model.logits(b.x.data(), {&last, 1}, b.logits.data());
         },
         [](const Bench& b, const PlacedLayer&, int) {
             return product_cost(b.model.weights().unembedding, 1, 1);
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

StageTiming time_stage(Model& model, const std::string& name, int tokens, int context, int calls) {
    const auto stage = std::find_if(stages().begin(), stages().end(),
                                    [&](const TimedStage& s) { return s.name == name; });
    if (stage == stages().end()) throw InvalidArgument(message("stage is \"", name, "\""));
    const ModelConfig& c = model.config();
    if (tokens < 1 || tokens > kStepRows || context < 0 || context > c.max_context - tokens ||
        calls < 1)
        throw InvalidArgument(message(tokens, " tokens from position ", context, " in ", calls,
                                      " calls, wanted 1 to ", kStepRows, " tokens, up to position ",
                                      c.max_context, ", 1 call or more"));
    std::vector<int> layers;
    for (int n = 0; n < c.layers; ++n)
        if (stage->kind == 2 || c.windowed[n] == stage->kind) layers.push_back(n);
    if (layers.empty()) throw InvalidArgument(message("no layer of this model has ", name));

    Bench bench(model, tokens, context);
    std::vector<double> seconds;
    Cost total{0, 0};
    for (int call = 0; call < calls; ++call) {
        const int layer = layers[call % layers.size()];
        fill_random(bench.x, call);
        if (name == "moe_up" || name == "moe_down") bench.route(layer);
        const auto start = std::chrono::steady_clock::now();
        stage->run(bench, layer);
        const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
        seconds.push_back(spent.count());
        const Cost cost = stage->cost(bench, model.weights().layers[layer], layer);
        total.bytes += cost.bytes;
        total.operations += cost.operations;
    }
    std::nth_element(seconds.begin(), seconds.begin() + calls / 2, seconds.end());
    return {seconds[calls / 2], total.bytes / calls, total.operations / calls};
}

}  // namespace gptoss

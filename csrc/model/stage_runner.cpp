#include "model/stage_runner.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "backend/kv_slot.h"
#include "base/error.h"

namespace gptoss {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

StageRunner::Floats poisoned(size_t n) { return StageRunner::Floats(n, kPoison); }

template <class T>
T* data(const StageMemory& memory) {
    return reinterpret_cast<T*>(memory.data());
}

}  // namespace

StageRunner::StageRunner(Model& model, int sequences, int max_context, Form form)
    : model_(model), max_context_(max_context), form_(form) {
    if (sequences < 1 || sequences > 1024)
        throw InvalidArgument(message("sequences is ", sequences, ", wanted 1 to 1024"));
    if (max_context < 1 || max_context > model.config().max_context)
        throw InvalidArgument(
            message("max_context is ", max_context, ", wanted 1 to ", model.config().max_context));
    model.wait_for_weights({});
    sequences_.resize(sequences);
    for (Sequence& s : sequences_) open(s);
}

void StageRunner::open(Sequence& s) {
    const KvGeometry& kv = model_.kv();
    // All ones is a NaN in float32, float16 and fp8.
    const std::vector<uint8_t> poison(kv.bytes(max_context_), 0xff);
    s.cache = upload(poison);
    for (int p = 0; p < kv.pages(max_context_); ++p)
        s.pages.push_back(s.cache.data() + kv.ring_bytes + p * kv.page_bytes);
    s.view = {s.pages.data(), s.cache.data()};
    Backend& backend = model_.backend();
    const size_t pages_bytes = s.pages.size() * sizeof(std::byte*);
    s.table = backend.allocate(sizeof(KvView) + pages_bytes, "a table of pages");
    auto* pages = reinterpret_cast<std::byte**>(s.table.data() + sizeof(KvView));
    const KvView view = {pages, s.cache.data()};
    backend.write(s.table.data(), &view, sizeof(view));
    backend.write(pages, s.pages.data(), pages_bytes);
}

StageMemory StageRunner::copy(const void* data, size_t bytes) const {
    StageMemory memory = model_.backend().allocate(std::max<size_t>(bytes, 1), "a stage's data");
    model_.backend().write(memory.data(), data, bytes);
    return memory;
}

template <class T>
StageMemory StageRunner::upload(const std::vector<T>& values) const {
    return copy(values.data(), values.size() * sizeof(T));
}

template <class T>
void StageRunner::download(const StageMemory& memory, std::vector<T>& values) const {
    model_.backend().read(values.data(), memory.data(), values.size() * sizeof(T));
}

std::vector<Row> StageRunner::rows(const Positions& at, size_t tokens) const {
    const size_t most = model_.step_rows(form_);
    if (at.size() != tokens || tokens < 1 || tokens > most)
        throw InvalidArgument(message(at.size(), " positions for ", tokens,
                                      " rows; wanted the same number, 1 to ", most));
    std::vector<Row> out;
    for (const SequencePosition& p : at) {
        if (p.sequence < 0 || p.sequence >= static_cast<int>(sequences_.size()) || p.position < 0 ||
            p.position >= max_context_)
            throw InvalidArgument(message("no position ", p.position, " in sequence ", p.sequence));
        out.push_back({0, p.position, data<const KvView>(sequences_[p.sequence].table)});
    }
    return out;
}

void StageRunner::check(int layer, const Floats& values, size_t width, const char* name) const {
    if (layer < 0 || layer >= model_.config().layers)
        throw InvalidArgument(
            message("layer is ", layer, ", wanted 0 to ", model_.config().layers - 1));
    const size_t most = model_.step_rows(form_);
    if (values.empty() || values.size() % width || values.size() / width > most)
        throw InvalidArgument(message(name, " has ", values.size(), " values, wanted 1 to ", most,
                                      " rows of ", width));
}

StageRunner::Floats StageRunner::embed(const std::vector<int>& ids) {
    Floats x = poisoned(ids.size() * model_.config().hidden_size);
    check(0, x, model_.config().hidden_size, "ids");
    std::vector<Row> rows;
    for (int id : ids) {
        if (id < 0 || id >= model_.config().vocab_size)
            throw InvalidArgument(message("token id ", id));
        rows.push_back({id, 0, data<const KvView>(sequences_[0].table)});
    }
    const StageMemory row = upload(rows), out = upload(x);
    model_.embed(data<Row>(row), static_cast<int>(rows.size()), data<float>(out));
    download(out, x);
    return x;
}

StageRunner::Floats StageRunner::qkv(int layer, const Floats& x, const Positions& at) {
    const ModelConfig& c = model_.config();
    check(layer, x, c.hidden_size, "x");
    const size_t tokens = x.size() / c.hidden_size;
    Floats q = poisoned(tokens * c.query_rows());
    const StageMemory row = upload(rows(at, tokens)), in = upload(x), out = upload(q);
    model_.qkv(layer, data<Row>(row), static_cast<int>(tokens), form_, data<float>(in),
               data<float>(out));
    download(out, q);
    return q;
}

StageRunner::Tile StageRunner::read_tile(int layer, SequencePosition at, int head,
                                         bool value) const {
    const ModelConfig& c = model_.config();
    const KvLayer& kv = model_.kv().layers[layer];
    const KvSlot slot =
        kv_slot(sequences_[at.sequence].view, kv, at.position, head, c.kv_heads, c.head_dim);
    Tile tile;
    tile.at = value ? slot.value_tile : slot.key_tile;
    tile.lane = slot.lane;
    tile.bytes.resize(size_t(kv.key_tile) * c.head_dim * dtype_bytes(kv.type));
    model_.backend().read(tile.bytes.data(), tile.at, tile.bytes.size());
    return tile;
}

std::byte* StageRunner::element(Tile& tile, const KvLayer& kv, int d, bool value) const {
    const size_t index =
        value ? tile.lane * model_.config().head_dim + d : d * kv.key_tile + tile.lane;
    return tile.bytes.data() + index * dtype_bytes(kv.type);
}

StageRunner::Floats StageRunner::cached(int layer, SequencePosition at) const {
    const ModelConfig& c = model_.config();
    check(layer, {0}, 1, "layer");
    rows({at}, 1);
    const KvLayer& kv = model_.kv().layers[layer];
    Floats out;
    for (bool value : {false, true}) {
        for (int head = 0; head < c.kv_heads; ++head) {
            Tile tile = read_tile(layer, at, head, value);
            for (int d = 0; d < c.head_dim; ++d) {
                const std::byte* p = element(tile, kv, d, value);
                out.push_back(with_kv_type(
                    kv.type, [&]<class T>(T) { return to_float(*reinterpret_cast<const T*>(p)); }));
            }
        }
    }
    return out;
}

void StageRunner::set_cached(int layer, SequencePosition at, const Floats& key_value) {
    const ModelConfig& c = model_.config();
    check(layer, key_value, size_t{2} * c.kv_heads * c.head_dim, "key_value");
    rows({at}, 1);
    const KvLayer& kv = model_.kv().layers[layer];
    const float* from = key_value.data();
    for (bool value : {false, true}) {
        for (int head = 0; head < c.kv_heads; ++head) {
            Tile tile = read_tile(layer, at, head, value);
            for (int d = 0; d < c.head_dim; ++d, ++from) {
                std::byte* p = element(tile, kv, d, value);
                with_kv_type(kv.type,
                             [&]<class T>(T) { *reinterpret_cast<T*>(p) = from_float<T>(*from); });
            }
            model_.backend().write(tile.at, tile.bytes.data(), tile.bytes.size());
        }
    }
}

StageRunner::Floats StageRunner::attention(int layer, const Floats& q, const Positions& at) {
    const size_t width = model_.config().query_rows(), tokens = q.size() / width;
    check(layer, q, width, "q");
    Floats mixed = poisoned(q.size());
    const StageMemory row = upload(rows(at, tokens)), in = upload(q), out = upload(mixed);
    model_.attention(layer, data<Row>(row), static_cast<int>(tokens), form_, data<float>(in),
                     data<float>(out));
    download(out, mixed);
    return mixed;
}

StageRunner::Floats StageRunner::attn_out(int layer, const Floats& attention, const Floats& x) {
    const ModelConfig& c = model_.config();
    check(layer, attention, c.query_rows(), "attention");
    check(layer, x, c.hidden_size, "x");
    const size_t tokens = x.size() / c.hidden_size;
    if (attention.size() / c.query_rows() != tokens)
        throw InvalidArgument("attention and x have different numbers of rows");
    Floats sum = x;
    const StageMemory in = upload(attention), out = upload(x);
    model_.attn_out(layer, static_cast<int>(tokens), form_, data<float>(in), data<float>(out));
    download(out, sum);
    return sum;
}

StageRunner::Experts StageRunner::experts(int layer, const Floats& x) {
    const ModelConfig& c = model_.config();
    check(layer, x, c.hidden_size, "x");
    const int tokens = static_cast<int>(x.size()) / c.hidden_size;
    const size_t pairs = size_t(tokens) * c.experts_per_token;
    const size_t value_bytes = model_.traits().activation_bytes;
    Experts out{std::vector<int>(pairs, -1), poisoned(pairs), poisoned(x.size()),
                poisoned(pairs * c.intermediate_size), x};
    const std::vector<uint8_t> poison(
        pairs * std::max(c.hidden_size, c.intermediate_size) * value_bytes, 0xff);
    const StageMemory residual = upload(x), h = upload(poison), act = upload(poison),
                      expert = upload(out.expert), weight = upload(out.weight);
    model_.router(layer, tokens, form_, data<float>(residual), h.data(), data<int>(expert),
                  data<float>(weight));
    model_.moe_up(layer, tokens, form_, h.data(), data<int>(expert), act.data());
    model_.moe_down(layer, tokens, form_, act.data(), data<int>(expert), data<float>(weight),
                    data<float>(residual));
    download(expert, out.expert);
    download(weight, out.weight);
    download(residual, out.x);
    Backend& backend = model_.backend();
    MoeUpArgs args{};
    args.form = form_;
    args.tokens = tokens;
    args.experts = c.experts;
    args.top_k = c.experts_per_token;
    args.act = act.data();
    backend.read_activations(h.data(), args, tokens, c.hidden_size, out.h.data());
    backend.read_activations(act.data(), args, static_cast<int>(pairs), c.intermediate_size,
                             out.act.data());
    return out;
}

StageRunner::Floats StageRunner::logits(const Floats& x, const std::vector<int>& which) {
    const ModelConfig& c = model_.config();
    check(0, x, c.hidden_size, "x");
    const size_t most = model_.step_rows(Form::kDecode);
    for (int row : which)
        if (row < 0 || row >= static_cast<int>(x.size()) / c.hidden_size || which.size() > most)
            throw InvalidArgument(message("no row ", row, ", or more than ", most));
    Floats logits = poisoned(which.size() * c.vocab_size);
    const StageMemory in = upload(x), rows = upload(which), out = upload(logits);
    model_.logits(data<float>(in), data<int>(rows), static_cast<int>(which.size()),
                  data<float>(out));
    download(out, logits);
    return logits;
}

StageRunner::Choices StageRunner::sample(const Floats& logits, const Sampling& sampling) {
    const int vocab = model_.config().vocab_size, words = mask_words(vocab);
    check(0, logits, vocab, "logits");
    const size_t outputs = logits.size() / vocab, most = model_.step_rows(Form::kDecode);
    const bool masked = !sampling.masks.empty();
    if (outputs > most || (masked && sampling.masks.size() != outputs * words))
        throw InvalidArgument(message(outputs, " rows of logits, ", sampling.masks.size(),
                                      " words of masks, wanted at most ", most, " rows and ", words,
                                      " words a row"));
    const StageMemory in = upload(logits), bias = upload(sampling.bias),
                      seen = upload(sampling.seen), masks = upload(sampling.masks);
    std::vector<SampleRow> rows;
    for (size_t i = 0; i < outputs; ++i)
        rows.push_back({sampling.parameters, data<TokenBias>(bias), data<TokenCount>(seen),
                        masked ? data<uint32_t>(masks) + i * words : nullptr, i,
                        static_cast<int>(sampling.bias.size()),
                        static_cast<int>(sampling.seen.size()), sampling.top_logprobs});
    Choices out{std::vector<TopLogprob>(outputs, {-2, kPoison}), {}};
    std::vector<TopLogprob> top(outputs * kMostTopLogprobs, {-2, kPoison});
    const StageMemory row = upload(rows), chosen = upload(out.chosen), likely = upload(top);
    model_.backend().sample({data<float>(in), data<SampleRow>(row), data<TopLogprob>(chosen),
                             data<TopLogprob>(likely), static_cast<int>(outputs), vocab});
    download(chosen, out.chosen);
    download(likely, top);
    for (size_t i = 0; i < outputs; ++i)
        out.top.insert(out.top.end(), top.begin() + i * kMostTopLogprobs,
                       top.begin() + i * kMostTopLogprobs + sampling.top_logprobs);
    return out;
}

}  // namespace gptoss

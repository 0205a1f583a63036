#include "model/model.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"
#include "model/fingerprint.h"
#include "model/rope.h"

namespace gptoss {
namespace {

StepBuffers carve(const ModelConfig& c, const BackendTraits& traits, Carver& carver) {
    const size_t rows = std::max(traits.prefill_rows, traits.decode_rows);
    const size_t outputs = traits.decode_rows, pairs = rows * c.experts_per_token;
    StepBuffers b;
    b.rows = carver.take<Row>(rows);
    b.which = carver.take<int>(rows);
    b.x = carver.take<float>(rows * c.hidden_size);
    b.q = carver.take<float>(rows * c.query_rows());
    b.attention = carver.take<float>(rows * c.query_rows());
    b.h = carver.take<std::byte>(rows * c.hidden_size * traits.activation_bytes);
    b.act = carver.take<std::byte>(pairs * c.intermediate_size * traits.activation_bytes);
    b.weight = carver.take<float>(pairs);
    b.expert = carver.take<int>(pairs);
    b.inv_freq = carver.take<float>(c.head_dim / 2);
    b.logits = carver.take<float>(outputs * c.vocab_size);
    b.sample = carver.take<SampleRow>(outputs);
    b.masks = carver.take<uint32_t>(outputs * mask_words(c.vocab_size));
    b.chosen = carver.take<TopLogprob>(outputs);
    b.top = carver.take<TopLogprob>(outputs * kMostTopLogprobs);
    return b;
}

// Whether the row's mask is asked for while its step is computed.
bool waits_for_mask(const SampleRequest& request) { return request.fill_mask != nullptr; }

// Where a step's outcome is known by its tokens alone, and begun() can tell it from others.
bool plain(const SampleRequest& r) {
    return r.bias.empty() && r.seen.empty() && r.top_logprobs == 0 && !waits_for_mask(r);
}

void check_finite(const TopLogprob& chosen) {
    if (chosen.token < 0)
        throw Error("the model gave logits that are not finite; are its weights damaged?");
}

// The other form of dense weights, if that is small enough.
std::string what_would_fit(const Backend& backend, const ModelConfig& config, WeightFormat dense,
                           size_t available) {
    if (dense == WeightFormat::kInt8) return "";
    try {
        const size_t bytes = backend.outline(config, WeightFormat::kInt8).bytes;
        if (bytes > available) return "";
        return message("; with dense \"int8\" they would take ", bytes, " and fit");
    } catch (const InvalidArgument&) {
        return "";  // this backend has no such form
    }
}

}  // namespace

size_t step_buffer_bytes(const ModelConfig& config, const BackendTraits& traits) {
    Carver count;
    carve(config, traits, count);
    return count.used();
}

std::unique_ptr<PlacedModel> place_model(Backend& backend, const ModelConfig& config,
                                         std::shared_ptr<const Published> published,
                                         WeightFormat dense, const Loading& loading) {
    const size_t weights = backend.outline(config, dense).bytes;
    const size_t steps =
        step_buffer_bytes(config, backend.traits()) + backend.scratch_bytes(config);
    const size_t available = backend.available_bytes();
    // A system promises more memory than it has, and ends a process that takes it at its word.
    if (available && weights + steps > available)
        throw OutOfMemory(message(
            "the weights take ", weights, " bytes and the steps ", steps, ", the device can give ",
            available,
            what_would_fit(backend, config, dense, available > steps ? available - steps : 0)));
    return backend.place(config, std::move(published), dense, loading);
}

Model::Model(const ModelConfig& config, std::unique_ptr<Backend> backend,
             std::unique_ptr<PlacedModel> weights, DType kv, bool deterministic)
    : config_(config),
      backend_(std::move(backend)),
      traits_(backend_->traits()),
      weights_(std::move(weights)),
      deterministic_(deterministic),
      prompt_form_(deterministic && !traits_.forms_agree ? Form::kDecode : Form::kPrefill),
      kv_(config, kv, traits_),
      concentration_(rope_concentration(config)),
      eps_(static_cast<float>(config.rms_norm_eps)),
      memory_(backend_->allocate(step_buffer_bytes(config, traits_), "the buffers of a step")),
      lists_(traits_.decode_rows),
      mask_(mask_words(config.vocab_size)),
      fixed_masks_(traits_.decode_rows) {
    backend_->prepare(config);
    Carver carver(memory_.data(), memory_.size());
    buffers_ = carve(config, traits_, carver);
    const std::vector<float> inv_freq = rope_frequencies(config);
    backend_->write(buffers_.inv_freq, inv_freq.data(), inv_freq.size() * sizeof(float));
}

int Model::step_rows(Form form) const {
    return form == Form::kPrefill ? traits_.prefill_rows : traits_.decode_rows;
}

void Model::write_rows(std::span<const Row> rows) {
    backend_->write(buffers_.rows, rows.data(), rows.size_bytes());
}

void Model::wait_for_weights(const Interrupt& interrupt) const {
    wait_for_part(weights_->parts() - 1, interrupt);
}

void Model::wait_for_part(int part, const Interrupt& interrupt) const {
    if (const auto& arrival = weights_->arriving.get()) arrival->wait(part, interrupt);
}

// While a model is being loaded this computes as far as its weights are there.
void Model::layers(int tokens, Form form, const Interrupt& interrupt) {
    const StepBuffers& b = buffers_;
    wait_for_part(0, interrupt);
    embed(b.rows, tokens, b.x);
    for (int layer = 0; layer < config_.layers; ++layer) {
        if (interrupt) interrupt();
        wait_for_part(1 + layer, interrupt);
        qkv(layer, b.rows, tokens, form, b.x, b.q);
        attention(layer, b.rows, tokens, form, b.q, b.attention);
        attn_out(layer, tokens, form, b.attention, b.x);
        router(layer, tokens, form, b.x, b.h, b.expert, b.weight);
        moe_up(layer, tokens, form, b.h, b.expert, b.act);
        moe_down(layer, tokens, form, b.act, b.expert, b.weight, b.x, /*after_up=*/true);
    }
    wait_for_weights(interrupt);  // logits are next
}

uint64_t Model::fingerprint(DType kv) {
    wait_for_weights({});
    if (!fingerprint_) fingerprint_ = gptoss::fingerprint(*backend_, config_, *weights_);
    return with_kv(*fingerprint_, kv);
}

void Model::forward(std::span<const Row> rows, Form form, const Interrupt& interrupt) {
    next_rows_.clear();
    write_rows(rows);
    layers(static_cast<int>(rows.size()), form, interrupt);
}

void Model::logits(std::span<const int> which, float* out) {
    // Where the stage can write them to `out`, the weights are read but once.
    const size_t most = traits_.host_memory ? traits_.prefill_rows : traits_.decode_rows;
    for (size_t begin = 0; begin < which.size(); begin += most) {
        const auto some = which.subspan(begin, std::min(most, which.size() - begin));
        const int count = static_cast<int>(some.size());
        backend_->write(buffers_.which, some.data(), some.size_bytes());
        float* rows = out + begin * config_.vocab_size;
        logits(buffers_.x, buffers_.which, count, traits_.host_memory ? rows : buffers_.logits);
        if (!traits_.host_memory)
            backend_->read(rows, buffers_.logits, some.size() * config_.vocab_size * sizeof(float));
    }
}

std::vector<Choice> Model::choose(std::span<const int> which,
                                  std::span<const SampleRequest> requests) {
    const int count = static_cast<int>(which.size());
    backend_->write(buffers_.which, which.data(), which.size_bytes());
    write_requests(requests);
    logits(buffers_.x, buffers_.which, count, buffers_.logits);
    MaskFailures failures = write_masks(requests);
    sample(count);
    return read_choices(requests, std::move(failures));
}

std::vector<Choice> Model::decode(std::span<const Row> rows,
                                  std::span<const SampleRequest> requests, bool more,
                                  const Interrupt& interrupt) {
    const bool ready = begun(rows, requests);
    next_rows_.clear();
    MaskFailures failures;
    if (!ready) failures = begin_decode(rows, requests, interrupt);
    const int slot = slot_;
    if (!std::all_of(requests.begin(), requests.end(), plain))
        return read_choices(requests, std::move(failures));
    if (more && traits_.asynchronous) begin_next(rows, requests, interrupt);
    const auto* chosen = reinterpret_cast<const TopLogprob*>(backend_->fetched(slot));
    std::vector<Choice> out;
    for (size_t i = 0; i < requests.size(); ++i) {
        check_finite(chosen[i]);
        out.push_back({chosen[i], {}, nullptr});
        if (!next_rows_.empty()) next_rows_[i].token = chosen[i].token;
    }
    return out;
}

Model::MaskFailures Model::begin_decode(std::span<const Row> rows,
                                        std::span<const SampleRequest> requests,
                                        const Interrupt& interrupt) {
    const int tokens = static_cast<int>(rows.size());
    write_rows(rows);
    write_requests(requests);
    std::vector<int> which(tokens);
    for (int i = 0; i < tokens; ++i) which[i] = i;
    backend_->write(buffers_.which, which.data(), which.size() * sizeof(int));
    const bool masked = std::any_of(requests.begin(), requests.end(), waits_for_mask);
    // A step of so many rows is the same work each time, but for what the buffers hold. Where masks
    // are waited for, it ends before the choice.
    backend_->repeat(masked ? -tokens : tokens, [&] {
        layers(tokens, Form::kDecode, interrupt);
        logits(buffers_.x, buffers_.which, tokens, buffers_.logits);
        if (!masked) sample(tokens);
    });
    MaskFailures failures;
    if (masked) {
        failures = write_masks(requests);
        sample(tokens);
    }
    slot_ = 1 - slot_;
    backend_->fetch(slot_, buffers_.chosen, tokens * sizeof(TopLogprob));
    return failures;
}

bool Model::begun(std::span<const Row> rows, std::span<const SampleRequest> requests) const {
    const auto same_row = [](const Row& a, const Row& b) {
        return a.token == b.token && a.position == b.position && a.kv == b.kv;
    };
    const auto same_request = [](const SampleRequest& a, const SampleRequest& b) {
        return a.parameters == b.parameters && a.position == b.position &&
               a.fixed_mask == b.fixed_mask && plain(a);
    };
    return std::equal(rows.begin(), rows.end(), next_rows_.begin(), next_rows_.end(), same_row) &&
           std::equal(requests.begin(), requests.end(), next_requests_.begin(),
                      next_requests_.end(), same_request);
}

// The tokens are named by the outputs they come from, until they are known.
void Model::begin_next(std::span<const Row> rows, std::span<const SampleRequest> requests,
                       const Interrupt& interrupt) {
    std::vector<Row> next(rows.begin(), rows.end());
    next_requests_.assign(requests.begin(), requests.end());
    for (size_t i = 0; i < next.size(); ++i) {
        next[i].token = -1 - static_cast<int>(i);
        ++next[i].position;
        ++next_requests_[i].position;
    }
    begin_decode(next, next_requests_, interrupt);
    next_rows_ = std::move(next);
}

void Model::write_requests(std::span<const SampleRequest> requests) {
    std::vector<SampleRow> rows(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
        const SampleRequest& r = requests[i];
        const size_t bytes = r.bias.size_bytes() + r.seen.size_bytes();
        if (lists_[i].size() < bytes)
            lists_[i] = backend_->allocate(2 * bytes, "the tokens that sampling treats apart");
        auto* bias = reinterpret_cast<TokenBias*>(lists_[i].data());
        auto* seen = reinterpret_cast<TokenCount*>(bias + r.bias.size());
        if (!r.bias.empty()) backend_->write(bias, r.bias.data(), r.bias.size_bytes());
        if (!r.seen.empty()) backend_->write(seen, r.seen.data(), r.seen.size_bytes());
        const bool masked = waits_for_mask(r) || r.fixed_mask;
        if (masked) write_fixed_mask(i, r);
        rows[i] = {r.parameters,
                   bias,
                   seen,
                   masked ? buffers_.masks + i * mask_.size() : nullptr,
                   r.position,
                   static_cast<int>(r.bias.size()),
                   static_cast<int>(r.seen.size()),
                   r.top_logprobs};
    }
    backend_->write(buffers_.sample, rows.data(), rows.size() * sizeof(SampleRow));
}

// Most often it is the one of the token before.
void Model::write_fixed_mask(size_t output, const SampleRequest& request) {
    if (waits_for_mask(request) || fixed_masks_[output] == request.fixed_mask) return;
    copy_mask(*request.fixed_mask, mask_, config_.vocab_size);
    fixed_masks_[output] = nullptr;  // until it is there
    backend_->write(buffers_.masks + output * mask_.size(), mask_.data(),
                    mask_.size() * sizeof(uint32_t));
    fixed_masks_[output] = request.fixed_mask;
}

// The rows of masks that failed are chosen from all tokens: nobody reads the outcome.
Model::MaskFailures Model::write_masks(std::span<const SampleRequest> requests) {
    if (std::none_of(requests.begin(), requests.end(), waits_for_mask)) return {};
    MaskFailures failures(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
        const SampleRequest& r = requests[i];
        if (!waits_for_mask(r)) continue;
        fixed_masks_[i] = nullptr;
        try {
            fill_mask(*r.fill_mask, mask_, config_.vocab_size, r.position);
        } catch (...) {
            failures[i] = std::current_exception();
            std::fill(mask_.begin(), mask_.end(), ~uint32_t{0});
        }
        backend_->write(buffers_.masks + i * mask_.size(), mask_.data(),
                        mask_.size() * sizeof(uint32_t));
    }
    return failures;
}

void Model::sample(int outputs) {
    backend_->sample({buffers_.logits, buffers_.sample, buffers_.chosen, buffers_.top, outputs,
                      config_.vocab_size});
}

std::vector<Choice> Model::read_choices(std::span<const SampleRequest> requests,
                                        MaskFailures failures) {
    std::vector<TopLogprob> chosen(requests.size());
    backend_->read(chosen.data(), buffers_.chosen, chosen.size() * sizeof(TopLogprob));
    std::vector<Choice> out;
    for (size_t i = 0; i < requests.size(); ++i) {
        check_finite(chosen[i]);
        out.push_back({chosen[i], std::vector<TopLogprob>(requests[i].top_logprobs), nullptr});
        if (!failures.empty()) out.back().failure = std::move(failures[i]);
        std::vector<TopLogprob>& top = out.back().top_logprobs;
        if (!top.empty())
            backend_->read(top.data(), buffers_.top + i * kMostTopLogprobs,
                           top.size() * sizeof(TopLogprob));
    }
    return out;
}

}  // namespace gptoss

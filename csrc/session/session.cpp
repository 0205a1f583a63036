#include "session/session.h"

#include <algorithm>

#include "base/error.h"
#include "session/generation.h"

namespace gptoss {
namespace {

constexpr int kShortStepRows = 8;

}  // namespace

Session::Session(std::shared_ptr<Engine> engine, int64_t max_context) : engine_(std::move(engine)) {
    engine_->with_model([&](Model& model) {
        const ModelConfig& config = model.config();
        if (max_context < 1 || max_context > config.max_context)
            throw InvalidArgument(
                message("max_context is ", max_context, ", wanted 1 to ", config.max_context));
        max_context_ = static_cast<int>(max_context);
        vocab_size_ = config.vocab_size;
        cache_ = std::make_unique<KvCache>(model.kv());
    });
}

std::shared_ptr<Session> Session::open(std::shared_ptr<Engine> engine, int64_t max_context) {
    auto session = std::make_shared<Session>(engine, max_context);
    engine->add(session);
    return session;
}

void Session::check_open() const {
    if (engine_->closed()) throw InvalidArgument("the model is closed");
    if (closing_) throw InvalidArgument("the session is closed");
}

std::vector<int> Session::checked(std::span<const int64_t> ids, int64_t more_tokens) const {
    for (size_t i = 0; i < ids.size(); ++i)
        if (ids[i] < 0 || ids[i] >= vocab_size_)
            throw InvalidArgument(
                message("token id ", ids[i], " at index ", i, ", wanted 0 to ", vocab_size_ - 1));
    const auto held = static_cast<int64_t>(tokens_.size()),
               added = static_cast<int64_t>(ids.size());
    const int64_t room = max_context_ - held;
    if (added > room || more_tokens > room - added)
        throw InvalidArgument(
            message("the context holds ", max_context_, " tokens: ", held, " are taken, ", added,
                    " were given",
                    more_tokens ? message(" and ", more_tokens, " asked for") : std::string(), "; ",
                    room, " fit"));
    return {ids.begin(), ids.end()};
}

void Session::set_size(size_t tokens) {
    tokens_.resize(tokens);
    position_ = static_cast<int>(tokens);
}

bool Session::compute(std::span<const int> ids, float* out, size_t outputs,
                      const Interrupt& interrupt, const Cancelled& cancelled) {
    struct Cancel {};
    int count = 0;
    const auto pause = [&] {
        // A short step's caller sees to signals itself, in less time than taking the GIL may need.
        if (interrupt && count > kShortStepRows) interrupt();
        check_open();
        if (cancelled && cancelled()) throw Cancel();
    };
    const size_t before = tokens_.size();
    tokens_.insert(tokens_.end(), ids.begin(), ids.end());
    const int total = static_cast<int>(tokens_.size());
    const int first_output = total - static_cast<int>(outputs);
    try {
        while (computed_ < total) {
            count = std::min(kStepRows, total - computed_);
            cache_->reserve(computed_ + count);
            std::vector<Row> rows;
            std::vector<int> which;
            for (int i = 0; i < count; ++i) {
                rows.push_back({tokens_[computed_ + i], computed_ + i, &cache_->view()});
                if (computed_ + i >= first_output) which.push_back(i);
            }
            engine_->step(rows, which, out, pause);
            if (out) out += which.size() * vocab_size_;
            computed_ += count;
        }
    } catch (const Cancel&) {
        set_size(std::max<size_t>(before, computed_));
        return false;
    } catch (...) {
        set_size(std::max<size_t>(before, computed_));
        if (closing_) cache_.reset();
        throw;
    }
    set_size(total);
    return true;
}

void Session::check(std::span<const int64_t> ids) const {
    const auto lock = mutex_.lock();
    check_open();
    checked(ids, 0);
}

void Session::prefill(std::span<const int64_t> ids, const Interrupt& interrupt) {
    const auto lock = mutex_.lock();
    check_open();
    const std::vector<int> tokens = checked(ids, 0);
    ++generation_;
    compute(tokens, nullptr, 0, interrupt, nullptr);
}

void Session::logits(std::span<const int64_t> ids, float* out, const Interrupt& interrupt) {
    const auto lock = mutex_.lock();
    check_open();
    const std::vector<int> tokens = checked(ids, 0);
    ++generation_;
    compute(tokens, out, tokens.size(), interrupt, nullptr);
}

std::shared_ptr<Generation> Session::generate(std::span<const int64_t> ids,
                                              GenerateOptions options) {
    const auto lock = mutex_.lock();
    check_open();
    if (options.max_new_tokens && *options.max_new_tokens < 1)
        throw InvalidArgument(
            message("max_new_tokens is ", *options.max_new_tokens, ", wanted 1 or more"));
    validate(options.sampling, vocab_size_);
    for (int64_t id : options.stop_ids)
        if (id < 0 || id >= vocab_size_)
            throw InvalidArgument(message("stop id ", id, ", wanted 0 to ", vocab_size_ - 1));
    if (ids.empty() && tokens_.empty())
        throw InvalidArgument("there is nothing to go on from: give at least one token id");
    std::vector<int> prompt = checked(ids, options.max_new_tokens.value_or(1));
    const int room = max_context_ - static_cast<int>(tokens_.size() + prompt.size());
    return std::make_shared<Generation>(shared_from_this(), std::move(prompt), std::move(options),
                                        room, ++generation_);
}

void Session::close() {
    if (mutex_.home().left()) return;
    closing_ = true;
    if (mutex_.mine()) return;
    const auto lock = mutex_.lock();
    cache_.reset();
    ++generation_;
}

std::vector<int> Session::tokens() const {
    const auto lock = mutex_.lock();
    return tokens_;
}

size_t Session::cache_bytes() const {
    const auto lock = mutex_.lock();
    return cache_ ? cache_->bytes() : 0;
}

}  // namespace gptoss

#include "session/session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "session/generation.h"

namespace gptoss {

Session::Session(std::shared_ptr<Engine> engine, int64_t max_context) : engine_(std::move(engine)) {
    engine_->with_model([&](Model& model) {
        const ModelConfig& config = model.config();
        if (max_context < 1 || max_context > config.max_context)
            throw InvalidArgument(
                message("max_context is ", max_context, ", wanted 1 to ", config.max_context));
        max_context_ = static_cast<int>(max_context);
        vocab_size_ = config.vocab_size;
        prefill_rows_ = model.step_rows(Form::kPrefill);
        decode_rows_ = model.step_rows(Form::kDecode);
        prompt_form_ = model.prompt_form();
        forms_agree_ = model.traits().forms_agree;
        asynchronous_ = model.traits().asynchronous;
        cache_ = std::make_unique<KvCache>(model.kv(), engine_->budget(), max_context_);
    });
}

std::shared_ptr<Session> Session::open(std::shared_ptr<Engine> engine, int64_t max_context) {
    auto session = std::make_shared<Session>(engine, max_context);
    engine->add(session);
    return session;
}

// A signal handler on the thread that has the engine must not wait for a session whose thread waits
// for the engine.
OwnedMutex::Lock Session::enter() const {
    if (!engine_->mine()) return mutex_.lock();
    auto lock = mutex_.try_lock();
    if (!lock)
        throw InvalidArgument(
            "called from within a step of this thread, for a session that another thread uses; use "
            "another thread, or wait for the step's end");
    return lock;
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
    forms_.resize(tokens);
    position_ = static_cast<int>(tokens);
}

void Session::append(int token, Form form) {
    forms_.reserve(tokens_.size() + 1);
    tokens_.push_back(token);
    forms_.push_back(form);
    position_ = static_cast<int>(tokens_.size());
}

void Session::check(std::span<const int64_t> ids) const {
    const auto lock = enter();
    check_open();
    checked(ids, 0);
}

Usage Session::prefill(std::span<const int64_t> ids, const Interrupt& interrupt) {
    const auto lock = enter();
    check_open();
    const std::vector<int> tokens = checked(ids, 0);
    const Call call(*this);
    compute(tokens, {}, interrupt, nullptr);
    return usage_;
}

void Session::logits(std::span<const int64_t> ids, float* out, const Interrupt& interrupt) {
    const auto lock = enter();
    check_open();
    const std::vector<int> tokens = checked(ids, 0);
    const Call call(*this);
    compute(tokens, {out, static_cast<int>(tokens.size())}, interrupt, nullptr);
}

Usage Session::usage() const {
    const auto lock = enter();
    return usage_;
}

std::shared_ptr<Generation> Session::generate(std::span<const int64_t> ids,
                                              GenerateOptions options) {
    const auto lock = enter();
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
    auto out = begin(std::move(prompt), std::move(options));
    stream_.reset();
    return out;
}

std::shared_ptr<Generation> Session::begin(std::vector<int> prompt, GenerateOptions options) {
    const int held = static_cast<int>(tokens_.size() + prompt.size());
    const int room = max_context_ - held;
    check_fits(held + static_cast<int>(options.max_new_tokens.value_or(1)));
    end_streams();
    return std::make_shared<Generation>(shared_from_this(), std::move(prompt), std::move(options),
                                        room, generation_);
}

std::shared_ptr<Generation> Session::resume(std::optional<int64_t> max_new_tokens,
                                            GenerateOptions options) {
    const auto lock = enter();
    check_open();
    if (!stream_) throw InvalidArgument("the session was not left in a stream: use generate()");
    if (max_new_tokens && *max_new_tokens < 1)
        throw InvalidArgument(message("max_new_tokens is ", *max_new_tokens, ", wanted 1 or more"));
    options.max_new_tokens = max_new_tokens;
    if (!max_new_tokens && stream_->left >= 0) options.max_new_tokens = stream_->left;
    options.sampling = stream_->sampling;
    options.stop_ids = stream_->stop_ids;
    options.generated_from = stream_->generated_from;
    checked({}, options.max_new_tokens.value_or(1));
    return begin({}, std::move(options));
}

std::vector<int> Session::streamed() const {
    const auto lock = enter();
    if (!stream_) return {};
    return {tokens_.begin() + stream_->generated_from, tokens_.end()};
}

void Session::check_fits(int tokens) const {
    const size_t wanted = cache_->geometry().bytes(tokens), most = engine_->budget()->limit();
    if (wanted > most)
        throw OutOfMemory(message(tokens, " tokens take ", wanted,
                                  " bytes of cache, the model's caches may take ", most,
                                  " (kv_bytes)"));
}

int Session::most_fitting() const {
    const KvGeometry& kv = cache_->geometry();
    const size_t most = engine_->budget()->limit();
    if (most < kv.ring_bytes || kv.page_bytes == 0) return most < kv.ring_bytes ? 0 : max_context_;
    const size_t pages = (most - kv.ring_bytes) / kv.page_bytes;
    return static_cast<int>(std::min<size_t>(max_context_, pages * KvGeometry::kPageTokens));
}

void Session::set_busy(bool busy) {
    if (reservation_) engine_->admission().set_busy(*reservation_, busy);
    last_used_ = std::chrono::steady_clock::now().time_since_epoch().count();
    if (!busy && closing_) cache_.reset();
}

void Session::end_streams() {
    ++generation_;
    give_up_reservation();
}

void Session::give_up_reservation() {
    if (const auto ended = std::exchange(reservation_, nullptr))
        engine_->admission().release(*ended);
}

void Session::close() {
    if (mutex_.home().left()) return;
    closing_ = true;
    if (mutex_.mine()) return;
    // Where it must not wait, the call that has the session frees the cache when it ends.
    const auto lock = engine_->mine() ? mutex_.try_lock() : mutex_.lock();
    if (!lock) return;
    cache_.reset();
    end_streams();
}

std::vector<int> Session::tokens() const {
    const auto lock = enter();
    return tokens_;
}

size_t Session::cache_bytes() const {
    const auto lock = enter();
    return cache_ ? cache_->bytes() : 0;
}

}  // namespace gptoss

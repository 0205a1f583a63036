#include "session/session.h"

#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "session/generation.h"
#include "session/session_file.h"

namespace gptoss {
namespace {

constexpr int kShortStepRows = 8;
// Prompt tokens of a step while others stream: more would hold them up for longer, fewer would read
// nearly all experts for little.
constexpr int kSharedStepRows = 64;

}  // namespace

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
        cache_ = std::make_unique<KvCache>(model.kv(), max_context_);
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

std::pair<int, Form> Session::next_rows() const {
    const Form form = forms_[computed_];
    int most = form == Form::kPrefill ? prefill_rows_ : decode_rows_;
    if (engine_->others_stream(this)) most = std::min(most, kSharedStepRows);
    const int end = std::min<int>(static_cast<int>(tokens_.size()), computed_ + most);
    int last = computed_;
    while (last < end && forms_[last] == form) ++last;
    return {last - computed_, form};
}

void Session::step(int count, Form form, const Wanted& wanted, const Interrupt& interrupt) {
    const int end = computed_ + count, total = static_cast<int>(tokens_.size());
    const bool choose = wanted.request && end == total;
    if (choose && form == Form::kDecode && count == 1)
        return decode(*wanted.request, wanted.more, *wanted.choice, interrupt);
    engine_->step_after_waiting(interrupt, [&](Model& model) {
        cache_->reserve(model.backend(), computed_, end);
        std::vector<Row> rows;
        std::vector<int> which;
        for (int position = computed_; position < end; ++position) {
            rows.push_back({tokens_[position], position, cache_->view()});
            if (position >= total - wanted.rows) which.push_back(position - computed_);
        }
        model.forward(rows, form, interrupt);
        const int done = std::max(0, computed_ - (total - wanted.rows));
        if (!which.empty()) model.logits(which, wanted.logits + size_t(done) * vocab_size_);
        // So that a failure is of this step, and a cancelled prompt ends with it.
        if (!choose && which.empty()) model.backend().synchronize();
        const int last = count - 1;
        if (choose) *wanted.choice = model.choose({&last, 1}, {wanted.request, 1})[0];
    });
}

void Session::decode(const SampleRequest& sample, bool more, Choice& choice,
                     const Interrupt& interrupt) {
    // Another thread may compute the row: what ends this one is seen to here.
    if (interrupt) interrupt();
    const int end = computed_ + 1;
    DecodeRequest request;
    request.who = this;
    request.sample = &sample;
    request.prepare = [&](Model& model) {
        cache_->reserve(model.backend(), computed_, end);
        request.more = more && end < max_context_ && model.traits().asynchronous &&
                       cache_->try_reserve(model.backend(), end, end + 1);
        return Row{tokens_[computed_], computed_, cache_->view()};
    };
    engine_->decode(request, interrupt);
    choice = std::move(request.choice);
}

bool Session::compute(std::span<const int> ids, const Wanted& wanted, const Interrupt& interrupt,
                      const Cancelled& cancelled) {
    struct Cancel {};
    int count = 0;
    const auto pause = [&] {
        // A short step's caller sees to signals itself, in less time than taking the GIL may need.
        if (interrupt && count > kShortStepRows) interrupt();
        check_open();
        if (cancelled && cancelled()) throw Cancel();
    };
    const size_t before = tokens_.size();
    if (!ids.empty() && computed_ > 0) snapshot();
    try {
        tokens_.insert(tokens_.end(), ids.begin(), ids.end());
        forms_.resize(tokens_.size(), prompt_form_);
        while (computed_ < static_cast<int>(tokens_.size())) {
            Form form;
            std::tie(count, form) = next_rows();
            step(count, form, wanted, pause);
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
    set_size(tokens_.size());
    if (closing_) cache_.reset();
    return true;
}

void Session::check(std::span<const int64_t> ids) const {
    const auto lock = enter();
    check_open();
    checked(ids, 0);
}

void Session::prefill(std::span<const int64_t> ids, const Interrupt& interrupt) {
    const auto lock = enter();
    check_open();
    const std::vector<int> tokens = checked(ids, 0);
    ++generation_;
    compute(tokens, {}, interrupt, nullptr);
}

void Session::logits(std::span<const int64_t> ids, float* out, const Interrupt& interrupt) {
    const auto lock = enter();
    check_open();
    const std::vector<int> tokens = checked(ids, 0);
    ++generation_;
    compute(tokens, {out, static_cast<int>(tokens.size())}, interrupt, nullptr);
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
    const int room = max_context_ - static_cast<int>(tokens_.size() + prompt.size());
    return std::make_shared<Generation>(shared_from_this(), std::move(prompt), std::move(options),
                                        room, ++generation_);
}

void Session::snapshot() {
    // A handler may have closed the session while its last row was computed.
    if (!cache_) return;
    engine_->step([&](Model& model) { cache_->snapshot(model.backend(), computed_); });
}

std::shared_ptr<Session> Session::fork() {
    const auto lock = enter();
    check_open();
    auto out = std::make_shared<Session>(engine_, max_context_);
    out->cache_ = engine_->step([&](Model& model) {
        model.forget_next();
        return cache_->fork(model.backend(), computed_);
    });
    out->tokens_ = tokens_;
    out->forms_ = forms_;
    out->computed_ = computed_;
    out->position_ = static_cast<int>(tokens_.size());
    engine_->add(out);
    return out;
}

void Session::save(const std::string& path) const {
    const auto lock = enter();
    check_open();
    const int pieces = cache_->pieces(computed_);
    uint64_t model_id = 0;
    engine_->step([&](Model& model) { model_id = model.fingerprint(); });
    SessionWriter file(path, max_context_, static_cast<int>(tokens_.size()), computed_, model_id,
                       cache_->saved_bytes(computed_));
    file.add(tokens_.data(), tokens_.size() * sizeof(tokens_[0]));
    file.add(forms_.data(), forms_.size() * sizeof(forms_[0]));
    std::vector<std::byte> piece;
    for (int i = 0; i < pieces; ++i) {
        piece.resize(cache_->piece_bytes(computed_, i));
        // Others' steps may go on between two pieces.
        engine_->step(
            [&](Model& model) { cache_->read_piece(model.backend(), computed_, i, piece.data()); });
        file.add(piece.data(), piece.size());
    }
    file.finish();
}

std::shared_ptr<Session> Session::load(std::shared_ptr<Engine> engine, const std::string& path) {
    SessionReader file(path);
    const SavedHeader& header = file.header();
    engine->step([&](Model& model) {
        if (header.model != model.fingerprint())
            file.refuse("was saved from a model of other weights, options or device");
        const int most = model.config().max_context;
        if (header.max_context < 1 || header.max_context > most)
            file.refuse(
                message("holds a max_context of ", header.max_context, ", wanted 1 to ", most));
    });
    auto out = std::make_shared<Session>(engine, header.max_context);
    out->tokens_.resize(header.tokens);
    out->forms_.resize(header.tokens);
    file.take(out->tokens_.data(), out->tokens_.size() * sizeof(int));
    file.take(out->forms_.data(), out->forms_.size() * sizeof(Form));
    const int pieces = out->cache_->pieces(header.computed);
    const uint64_t bytes = out->cache_->saved_bytes(header.computed);
    if (bytes != header.piece_bytes)
        file.refuse(message("holds ", header.piece_bytes, " bytes of cache, wanted ", bytes));
    std::vector<std::byte> piece;
    for (int i = 0; i < pieces; ++i) {
        piece.resize(out->cache_->piece_bytes(header.computed, i));
        file.take(piece.data(), piece.size());
        engine->step([&](Model& model) {
            model.forget_next();
            out->cache_->write_piece(model.backend(), header.computed, i, piece.data());
        });
    }
    file.finish();
    for (size_t i = 0; i < out->tokens_.size(); ++i)
        if (out->tokens_[i] < 0 || out->tokens_[i] >= out->vocab_size_ ||
            out->forms_[i] > Form::kDecode)
            file.refuse(message("holds no token at index ", i));
    out->computed_ = header.computed;
    out->position_ = header.tokens;
    engine->add(out);
    return out;
}

void Session::rewind(int64_t position) {
    const auto lock = enter();
    check_open();
    const auto size = static_cast<int64_t>(tokens_.size());
    if (position < 0 || position > size)
        throw InvalidArgument(message("position is ", position, ", wanted 0 to ", size));
    ++generation_;
    const int kept = static_cast<int>(position);
    if (kept < computed_)
        engine_->step([&](Model& model) {
            model.forget_next();
            computed_ = cache_->rewind(model.backend(), kept);
        });
    set_size(kept);
}

void Session::close() {
    if (mutex_.home().left()) return;
    closing_ = true;
    if (mutex_.mine()) return;
    // Where it must not wait, the call that has the session frees the cache when it ends.
    const auto lock = engine_->mine() ? mutex_.try_lock() : mutex_.lock();
    if (!lock) return;
    cache_.reset();
    ++generation_;
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

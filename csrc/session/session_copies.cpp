// A session's cache elsewhere: off the device, in another session, in a file.
#include <algorithm>

#include "base/error.h"
#include "session/session.h"
#include "session/session_file.h"
#include "session/stream_state.h"

namespace gptoss {
namespace {

bool possible(const StreamState& stream, int tokens, int vocab_size) {
    try {
        validate(stream.sampling, vocab_size);
    } catch (const InvalidArgument&) {
        return false;
    }
    return stream.generated_from >= 0 && stream.generated_from <= tokens &&
           std::all_of(stream.stop_ids.begin(), stream.stop_ids.end(),
                       [&](int64_t id) { return id >= 0 && id < vocab_size; });
}

}  // namespace

void Session::with_cache(const std::function<size_t(Model&)>& more_bytes,
                         const std::function<void(Model&)>& use) const {
    AdmissionCall call;
    call.missing = [&](Model& model) {
        return cache_->missing(0, 0) + (more_bytes ? more_bytes(model) : 0);
    };
    call.take = [&](Model& model) {
        cache_->restore(model.backend());
        use(model);
    };
    engine_->admit_at_once(this, call);
}

bool Session::spill_if_idle(Model& model) {
    if (mutex_.mine()) return false;
    const auto lock = mutex_.try_lock();
    if (!lock) return false;
    if (reservation_ && engine_->admission().active(*reservation_)) return false;
    return spill(model);
}

bool Session::spill(Model& model) {
    if (!cache_ || !cache_->spillable()) return false;
    model.forget_next();
    try {
        cache_->spill(model.backend());
    } catch (const OutOfMemory&) {
        return false;
    }
    return true;
}

std::shared_ptr<Session> Session::fork() {
    const auto lock = enter();
    check_open();
    auto out = std::make_shared<Session>(engine_, max_context_);
    const auto bytes = [&](Model& model) {
        const KvGeometry& kv = model.kv();
        return computed_ > 0 ? kv.ring_bytes + kv.window_bytes + kv.page_bytes : 0;
    };
    with_cache(bytes, [&](Model& model) {
        out->cache_ = cache_->fork(model.backend(), computed_);
        if (reservation_)
            engine_->admission().promise(*reservation_, cache_->missing(computed_, planned_end_));
    });
    out->tokens_ = tokens_;
    out->forms_ = forms_;
    out->computed_ = computed_;
    out->published_ = published_;
    out->stream_ = stream_;
    out->position_ = static_cast<int>(tokens_.size());
    engine_->add(out);
    return out;
}

void Session::save(const std::string& path) const {
    const auto lock = enter();
    check_open();
    with_cache({}, [](Model&) {});
    const int pieces = cache_->pieces(computed_);
    uint64_t model_id = 0;
    engine_->step([&](Model& model) { model_id = model.fingerprint(); });
    const std::vector<std::byte> stream = stream_ ? to_bytes(*stream_) : std::vector<std::byte>();
    SavedHeader header = {};
    header.max_context = max_context_;
    header.tokens = static_cast<int>(tokens_.size());
    header.computed = computed_;
    header.model = model_id;
    header.piece_bytes = cache_->saved_bytes(computed_);
    header.stream_bytes = stream.size();
    SessionWriter file(path, header);
    file.add(tokens_.data(), tokens_.size() * sizeof(tokens_[0]));
    file.add(forms_.data(), forms_.size() * sizeof(forms_[0]));
    file.add(stream.data(), stream.size());
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
        const DType kv = model.kv().type;
        for (const DType other : {DType::kF16, DType::kFp8})
            if (header.model != model.fingerprint() && header.model == model.fingerprint(other))
                file.refuse(message("was saved with kv \"", kv_name(other), "\", this model has \"",
                                    kv_name(kv), "\""));
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
    std::vector<std::byte> stream(header.stream_bytes);
    file.take(stream.data(), stream.size());
    const int pieces = out->cache_->pieces(header.computed);
    const uint64_t bytes = out->cache_->saved_bytes(header.computed);
    if (bytes != header.piece_bytes)
        file.refuse(message("holds ", header.piece_bytes, " bytes of cache, wanted ", bytes));
    AdmissionCall call;
    call.missing = [&](Model& model) { return model.kv().bytes(header.computed); };
    call.take = [&](Model& model) {
        if (header.computed) out->cache_->reserve(model.backend(), 0, header.computed);
    };
    engine->admit_at_once(out.get(), call);
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
    if (!stream.empty()) {
        out->stream_ = to_stream_state(stream);
        if (!out->stream_ || !possible(*out->stream_, header.tokens, out->vocab_size_))
            file.refuse("holds no stream that could go on");
    }
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
    const int kept = static_cast<int>(position);
    if (kept == 0) {
        auto empty = std::make_unique<KvCache>(cache_->geometry(), engine_->budget(), max_context_);
        engine_->step([&](Model& model) { model.forget_next(); });
        cache_ = std::move(empty);
        computed_ = 0;
    } else if (kept < computed_) {
        with_cache({}, [&](Model& model) { computed_ = cache_->rewind(model.backend(), kept); });
    }
    end_streams();
    stream_.reset();
    published_ = std::min(published_, kept);
    set_size(kept);
}

}  // namespace gptoss

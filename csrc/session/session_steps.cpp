// What a session computes: the rows of its steps, with the engine's leave, and what it remembers of
// them for later.
#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "session/session.h"

namespace gptoss {
namespace {

constexpr int kShortStepRows = 8;
// Prompt tokens of a step while others stream: more would hold them up for longer, fewer would read
// nearly all experts for little.
constexpr int kSharedStepRows = 64;
// Others' prompts may begin with part of this one: so far apart that what they compute again is
// little, and the windows kept for it are a quarter of what the pages take.
constexpr int kPublishDistance = 512, kLeastPublishDistance = 128;
// The first may be short, as a chat's system message is; it counts for no distance then.
constexpr int kLeastPublished = 32;
// Fewer tokens are computed sooner than a ring is filled.
constexpr int kLeastAdopted = 16;

}  // namespace

std::pair<int, Form> Session::next_rows() const {
    const Form form = forms_[computed_];
    int most = form == Form::kPrefill ? prefill_rows_ : decode_rows_;
    if (engine_->admission().others_stream(this)) most = std::min(most, kSharedStepRows);
    const int end = std::min<int>(static_cast<int>(tokens_.size()), computed_ + most);
    int last = computed_;
    while (last < end && forms_[last] == form) ++last;
    return {last - computed_, form};
}

void Session::step(int count, Form form, const Wanted& wanted, const Interrupt& interrupt) {
    const int end = computed_ + count, total = static_cast<int>(tokens_.size());
    const bool choose = wanted.request && end == total;
    if (choose && form == Form::kDecode && count == 1) return decode(wanted, interrupt);
    engine_->step_after_waiting(wanted.priority, interrupt, [&](Model& model) {
        make_room(model, end);
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
        if (choose) *wanted.choices = model.choose({&last, 1}, {wanted.request, 1});
        publish_within(model, computed_, end);
    });
}

void Session::decode(const Wanted& wanted, const Interrupt& interrupt) {
    // Another thread may compute the rows: what ends this one is seen to here.
    if (interrupt) interrupt();
    std::vector<int> tokens = {tokens_[computed_]};
    tokens.insert(tokens.end(), wanted.drafts.begin(), wanted.drafts.end());
    std::vector<SampleRequest> samples(tokens.size(), *wanted.request);
    for (size_t i = 1; i < samples.size(); ++i) {
        samples[i].position += i;
        if (!wanted.draft_masks.empty()) samples[i].fill_mask = &wanted.draft_masks[i - 1];
    }
    const int end = computed_ + static_cast<int>(tokens.size());
    DecodeRequest request;
    request.who = this;
    request.priority = wanted.priority;
    request.samples = samples;
    request.prepare = [&](Model& model) {
        make_room(model, end);
        request.more = wanted.more && end < planned_end_ && model.traits().asynchronous &&
                       cache_->try_reserve(model.backend(), end, end + 1);
        std::vector<Row> rows;
        for (size_t i = 0; i < tokens.size(); ++i)
            rows.push_back({tokens[i], computed_ + static_cast<int>(i), cache_->view()});
        return rows;
    };
    engine_->decode(request, interrupt);
    // A draft counts while the one before it came true; what its mask failed by is forgotten with
    // the others, which nobody asked for.
    size_t right = 0;
    while (right < wanted.drafts.size() &&
           request.choices[right].chosen.token == wanted.drafts[right])
        ++right;
    request.choices.resize(right + 1);
    *wanted.choices = std::move(request.choices);
}

bool Session::admitted(int end) const {
    return reservation_ && end <= planned_end_ && engine_->admission().active(*reservation_);
}

void Session::make_room(Model& model, int end) {
    if (!admitted(end) || !cache_->resident()) throw NotAdmitted();
    cache_->reserve(model.backend(), computed_, end);
    engine_->admission().promise(*reservation_, cache_->missing(end, planned_end_));
}

void Session::take_cache(Model& model, const KvPrefix* found, int computed) {
    cache_->restore(model.backend());
    if (!found) return;
    cache_->adopt(model.backend(), *found);
    published_ = found->positions;
    computed_ = computed;
}

void Session::admit(const Wanted& wanted, const Interrupt& pause) {
    const int total = static_cast<int>(tokens_.size());
    const bool first = !reservation_;
    if (first) reservation_ = engine_->reserve(this, wanted.priority);
    // What may be generated is promised as far as there could be room.
    const int end =
        std::max(total, std::min({max_context_, total + wanted.growth, most_fitting()}));
    const int most = wanted.rows ? total - wanted.rows : total;
    std::shared_ptr<const KvPrefix> found;
    // The last position is computed in any case where a token is chosen after it.
    const auto begin = [&] {
        return found ? std::min(found->positions, total - (wanted.request ? 1 : 0)) : computed_;
    };
    const auto path = first ? keys(total) : std::vector<PrefixCache::Key>();
    bool look = first;
    AdmissionCall call;
    call.missing = [&](Model& model) {
        check_fits(end);
        found = nullptr;
        if (look) {
            const PrefixCache::Match match = engine_->prefixes().find(path, most);
            branch_ = match.common;
            if (match.prefix && match.prefix->positions >= computed_ + kLeastAdopted)
                found = match.prefix;
        }
        if (!found) return cache_->missing(computed_, end);
        // Of the prefix's pages only the last may have to be copied.
        const KvGeometry& kv = model.kv();
        const int pages = kv.pages(end) - begin() / KvGeometry::kPageTokens;
        return cache_->missing(0, 0) + pages * kv.page_bytes;
    };
    call.take = [&](Model& model) {
        take_cache(model, found.get(), begin());
        planned_end_ = end;
    };
    call.spill = [&](Model& model) { spill(model); };
    // A prefix beside what the session has, and ways back.
    call.shrink = [&] { return std::exchange(look, false) || cache_->forget_snapshots(); };
    call.withdraw = [&] { found = nullptr; };
    engine_->admit(*reservation_, call, pause);
}

bool Session::compute(std::span<const int> ids, Wanted wanted, const Interrupt& interrupt,
                      const Cancelled& cancelled) {
    struct Cancel {};
    const auto stop_if_asked = [&] {
        check_open();
        if (cancelled && cancelled()) throw Cancel();
    };
    const Interrupt pause = [&] {
        if (interrupt) interrupt();
        stop_if_asked();
    };
    const size_t before = tokens_.size();
    bool whole = false;
    const Busy busy(*this);
    try {
        tokens_.insert(tokens_.end(), ids.begin(), ids.end());
        forms_.resize(tokens_.size(), prompt_form_);
        Usage usage = {computed_, 0};
        for (bool begun = false; computed_ < static_cast<int>(tokens_.size()); begun = true) {
            auto [count, form] = next_rows();
            const auto ahead = static_cast<int>(wanted.drafts.size());
            if (!admitted(computed_ + count + ahead)) {
                admit(wanted, pause);
                // Where there is room for no more than the tokens that are.
                const int most = std::max(0, planned_end_ - computed_ - count);
                wanted.drafts = wanted.drafts.first(std::min(ahead, most));
            }
            if (!begun && wanted.begins && !ids.empty() && computed_ > 0) snapshot();
            if (!begun) usage.cached_tokens = computed_;
            // A cached prefix may be all of it.
            if (computed_ == static_cast<int>(tokens_.size())) break;
            std::tie(count, form) = next_rows();
            try {
                // A short step's caller sees to signals itself, in less time than taking the GIL
                // may need.
                step(count, form, wanted, count > kShortStepRows ? pause : stop_if_asked);
            } catch (const NotAdmitted&) {
                continue;
            }
            computed_ += count;
            usage.prefilled_tokens += count;
        }
        if (wanted.begins) usage_ = usage;
        whole = true;
    } catch (const Cancel&) {
    } catch (...) {
        set_size(std::max<size_t>(before, computed_));
        throw;
    }
    set_size(std::max<size_t>(before, computed_));
    return whole;
}

void Session::snapshot() {
    // A handler may have closed the session while its last row was computed.
    if (!cache_ || !cache_->resident()) return;
    engine_->step([&](Model& model) { snapshot(model); });
}

void Session::snapshot(Model& model) {
    const size_t bytes = model.kv().window_bytes;
    try {
        if (bytes && engine_->spare(bytes)) cache_->snapshot(model.backend(), computed_);
    } catch (const OutOfMemory&) {
        // Going back will compute more again, that is all.
    }
    if (worth_publishing(computed_)) publish(model, computed_);
}

bool Session::worth_publishing(int position) const {
    const int before = published_ < kLeastPublishDistance ? 0 : published_;
    return position - before >= kLeastPublishDistance ||
           (published_ < kLeastPublished && position >= kLeastPublished);
}

std::vector<PrefixCache::Key> Session::keys(int count) const {
    std::vector<PrefixCache::Key> out(count);
    for (int i = 0; i < count; ++i)
        out[i] = static_cast<PrefixCache::Key>(tokens_[i]) * 2 +
                 (!forms_agree_ && forms_[i] == Form::kDecode);
    return out;
}

void Session::publish(Model& model, int position) {
    PrefixCache& prefixes = engine_->prefixes();
    const KvGeometry& kv = model.kv();
    if (prefixes.limit() == 0) return;
    published_ = position;
    const auto path = keys(position);
    if (prefixes.holds(path) || !engine_->spare(kv.window_bytes + kv.page_bytes)) return;
    try {
        prefixes.insert(path, cache_->prefix(model.backend(), position));
    } catch (const OutOfMemory&) {
        return;  // others compute it again
    }
    // The page it ends in is copied before this session writes there again.
    if (reservation_)
        engine_->admission().promise(*reservation_, cache_->missing(position, planned_end_));
}

void Session::publish_within(Model& model, int begin, int end) {
    const int total = static_cast<int>(tokens_.size());
    for (int at = begin + 1; at <= end; ++at)
        if (at == branch_ || at % kPublishDistance == 0 || at == total)
            if (worth_publishing(at)) publish(model, at);
}

}  // namespace gptoss

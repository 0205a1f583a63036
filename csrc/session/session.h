// One conversation: its tokens, its cache, and what can be done with them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "session/engine.h"
#include "session/kv_cache.h"
#include "session/sampling.h"
#include "session/stream_state.h"

namespace gptoss {

class Generation;

struct GenerateOptions {
    std::optional<int64_t> max_new_tokens;  // none: until the context is full
    Sampling sampling;
    std::vector<int64_t> stop_ids;
    int priority = 0;                 // more goes first
    std::optional<double> timeout_s;  // from the first token's beginning to the last one's end
    bool lookup = true;               // guess by what the prompt holds; the result is the same
    std::optional<int> generated_from = {};  // of a stream that goes on
};

// What the latest call of a session has cost.
struct Usage {
    int cached_tokens = 0;     // of the context that were in the cache already
    int prefilled_tokens = 0;  // computed before the first token, or at all
};

// Calls may come from any thread and wait for each other. A call that fails or is interrupted
// leaves a session that goes on from what it had computed: position() says how far that is.
class Session : public std::enable_shared_from_this<Session> {
  public:
    // A session the engine knows. Throws InvalidArgument if max_context is not in 1 to the
    // model's own.
    static std::shared_ptr<Session> open(std::shared_ptr<Engine> engine, int64_t max_context);
    Session(std::shared_ptr<Engine> engine, int64_t max_context);

    // Appends the tokens and computes their keys and values.
    Usage prefill(std::span<const int64_t> ids, const Interrupt& interrupt);
    // The same, and writes the logits after each: out is [ids.size(), vocab].
    void logits(std::span<const int64_t> ids, float* out, const Interrupt& interrupt);
    // Checks everything; the work is done by the generation's next().
    std::shared_ptr<Generation> generate(std::span<const int64_t> ids, GenerateOptions options);
    // Goes on with the stream that this session, or the one it was forked from or saved from, was
    // left in: the same tokens as if it had not been. max_new_tokens: as many as were left. Throws
    // InvalidArgument if it was in none.
    std::shared_ptr<Generation> resume(std::optional<int64_t> max_new_tokens,
                                       GenerateOptions options);
    // The tokens that stream has given.
    std::vector<int> streamed() const;
    // Another session that holds the same, and goes on by itself. What both hold is there once.
    std::shared_ptr<Session> fork();
    // Writes all that is needed to go on, in this process or another, to a file that appears when
    // it is whole. Throws Error if it cannot be written.
    void save(const std::string& path) const;
    // Throws CheckpointError naming the file if it is no saved session of this very model, or
    // damaged.
    static std::shared_ptr<Session> load(std::shared_ptr<Engine> engine, const std::string& path);
    // Drops the tokens from `position` on. Streams of this session end.
    void rewind(int64_t position);
    // Frees the cache; from within a step of this thread, when the step ends. Later calls throw
    // InvalidArgument.
    void close();
    // Throws InvalidArgument if these ids cannot be appended.
    void check(std::span<const int64_t> ids) const;

    std::vector<int> tokens() const;
    int position() const { return position_; }
    size_t cache_bytes() const;
    Usage usage() const;
    bool closed() const { return closing_; }
    // When it computed last, in ticks of the steady clock.
    int64_t last_used() const { return last_used_; }
    // For the engine, under its lock: takes the cache off the device unless it is in use. False if
    // that freed nothing.
    bool spill_if_idle(Model& model);
    int vocab_size() const { return vocab_size_; }
    int max_context() const { return max_context_; }

  private:
    friend class Generation;
    using Cancelled = std::function<bool()>;

    OwnedMutex::Lock enter() const;
    // Calls use(), which may not ask for this session or its model, but may close them.
    template <class Use>
    void call_back(Use use) {
        struct Ending {
            ~Ending() {
                if (session.closing_) session.cache_.reset();
            }
            Session& session;
        } const ending{*this};
        const Engine::CallingBack calling(*engine_);
        use();
    }
    void check_open() const;
    void set_size(size_t tokens);
    std::shared_ptr<Generation> begin(std::vector<int> prompt, GenerateOptions options);
    std::vector<int> checked(std::span<const int64_t> ids, int64_t more_tokens) const;
    // What is wanted of the rows computed last.
    struct Wanted {
        float* logits = nullptr;  // [rows, vocab]   out
        int rows = 0;
        const SampleRequest* request = nullptr;  // for the last row
        std::vector<Choice>* choices = nullptr;  // out: for it, and for drafts that came true
        std::span<const int> drafts = {};        // tokens that may follow
        // For the row of each draft; empty: as the request has it.
        std::span<const FillMask> draft_masks = {};
        bool more = false;   // the token after it is likely to be wanted next
        bool begins = true;  // a call or a stream
        int priority = 0;
        int growth = 0;  // tokens after these that memory is promised for
    };
    // A call that is no stream: it ends those before, and its right to go on ends with it.
    class Call {
      public:
        explicit Call(Session& session) : session_(session) {
            session_.end_streams();
            session_.stream_.reset();
        }
        ~Call() { session_.give_up_reservation(); }

      private:
        Session& session_;
    };
    // While rows are computed: what comes to an end with that, also by an exception.
    class Busy {
      public:
        explicit Busy(Session& session) : session_(session) { session_.set_busy(true); }
        ~Busy() { session_.set_busy(false); }

      private:
        Session& session_;
    };
    void set_busy(bool busy);
    // Throws OutOfMemory if the model's caches may never hold so many tokens.
    void check_fits(int tokens) const;
    int most_fitting() const;  // tokens that they may hold
    // Within a step: takes the cache off the device, as far as the host has room. False if that
    // freed nothing.
    bool spill(Model& model);
    void end_streams();
    void give_up_reservation();
    // Appends ids and computes all that is not. False if cancelled between two steps.
    bool compute(std::span<const int> ids, Wanted wanted, const Interrupt& interrupt,
                 const Cancelled& cancelled);
    // Computes `count` rows of one form from computed_ on, in one step.
    void step(int count, Form form, const Wanted& wanted, const Interrupt& interrupt);
    // The same for one generated token and drafts, together with others' and chosen after.
    void decode(const Wanted& wanted, const Interrupt& interrupt);
    // Waits until the engine lets it go on, with a cached prefix of its tokens where there is one.
    void admit(const Wanted& wanted, const Interrupt& pause);
    bool admitted(int end) const;
    // Within a step: room for rows up to `end`. Throws NotAdmitted.
    void make_room(Model& model, int end);
    // Within a step: makes the cache ready for what was planned.
    void take_cache(Model& model, const KvPrefix* found, int computed);
    // Does `use` with the cache on the device, where it finds `more_bytes(model)` more.
    void with_cache(const std::function<size_t(Model&)>& more_bytes,
                    const std::function<void(Model&)>& use) const;
    void append(int token, Form form);
    // Remembers how to come back to what is computed now, here and in other sessions.
    void snapshot();
    void snapshot(Model& model);  // the same within a step
    // Within a step: for other sessions whose tokens begin with the first `position` of these.
    void publish(Model& model, int position);
    // Whether a prefix that ends there is far enough from the last one published.
    bool worth_publishing(int position) const;
    // Publishes places in the rows just computed, from `begin` on, where others may branch off.
    void publish_within(Model& model, int begin, int end);
    std::vector<PrefixCache::Key> keys(int count) const;
    // Rows from computed_ on that one step takes, and their form.
    std::pair<int, Form> next_rows() const;

    const std::shared_ptr<Engine> engine_;
    int vocab_size_ = 0;
    int max_context_ = 0;
    int prefill_rows_ = 0, decode_rows_ = 0;  // of a step at most
    Form prompt_form_ = Form::kPrefill;
    bool forms_agree_ = false, asynchronous_ = false;

    mutable OwnedMutex mutex_;
    std::atomic<bool> closing_{false};
    std::atomic<int> position_{0};    // tokens_.size(), to be read during a step
    std::unique_ptr<KvCache> cache_;  // null after close()
    std::vector<int> tokens_;
    std::vector<Form> forms_;  // of tokens_: generated ones are computed in the decode form
    int computed_ = 0;         // tokens whose keys and values are in the cache
    uint64_t generation_ = 0;  // the latest; older streams have ended
    std::shared_ptr<Reservation> reservation_;  // of the latest call
    int planned_end_ = 0;                       // what it was admitted for
    int published_ = 0, branch_ = 0;            // positions: the last one published, one to be
    Usage usage_;
    std::optional<StreamState> stream_;
    std::atomic<int64_t> last_used_{0};
};

}  // namespace gptoss

// One conversation: its tokens, its cache, and what can be done with them.
#pragma once

#include <atomic>
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

namespace gptoss {

class Generation;

struct GenerateOptions {
    std::optional<int64_t> max_new_tokens;  // none: until the context is full
    Sampling sampling;
    std::vector<int64_t> stop_ids;
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
    void prefill(std::span<const int64_t> ids, const Interrupt& interrupt);
    // The same, and writes the logits after each: out is [ids.size(), vocab].
    void logits(std::span<const int64_t> ids, float* out, const Interrupt& interrupt);
    // Checks everything; the work is done by the generation's next().
    std::shared_ptr<Generation> generate(std::span<const int64_t> ids, GenerateOptions options);
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
    bool closed() const { return closing_; }
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
    std::vector<int> checked(std::span<const int64_t> ids, int64_t more_tokens) const;
    // What is wanted of the rows computed last.
    struct Wanted {
        float* logits = nullptr;  // [rows, vocab]   out
        int rows = 0;
        const SampleRequest* request = nullptr;  // for the last row
        Choice* choice = nullptr;                // out
        bool more = false;                       // the token after it is likely to be wanted next
    };
    // Appends ids and computes all that is not. False if cancelled between two steps.
    bool compute(std::span<const int> ids, const Wanted& wanted, const Interrupt& interrupt,
                 const Cancelled& cancelled);
    // Computes `count` rows of one form from computed_ on, in one step.
    void step(int count, Form form, const Wanted& wanted, const Interrupt& interrupt);
    // The same for one generated token, together with others' and chosen after.
    void decode(const SampleRequest& sample, bool more, Choice& choice, const Interrupt& interrupt);
    void append(int token, Form form);
    // Remembers how to come back to what is computed now.
    void snapshot();
    // Rows from computed_ on that one step takes, and their form.
    std::pair<int, Form> next_rows() const;

    const std::shared_ptr<Engine> engine_;
    int vocab_size_ = 0;
    int max_context_ = 0;
    int prefill_rows_ = 0, decode_rows_ = 0;  // of a step at most
    Form prompt_form_ = Form::kPrefill;

    mutable OwnedMutex mutex_;
    std::atomic<bool> closing_{false};
    std::atomic<int> position_{0};    // tokens_.size(), to be read during a step
    std::unique_ptr<KvCache> cache_;  // null after close()
    std::vector<int> tokens_;
    std::vector<Form> forms_;  // of tokens_: generated ones are computed in the decode form
    int computed_ = 0;         // tokens whose keys and values are in the cache
    uint64_t generation_ = 0;  // the latest; older streams have ended
};

}  // namespace gptoss

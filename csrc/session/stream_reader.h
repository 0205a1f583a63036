// Reads streams for an event loop: threads that wait for tokens, and one descriptor that can be
// read when there are some. The loop takes all that have come at once, so that streams do not wait
// for each other to be told.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "session/generation.h"

namespace gptoss {

// What came of one begin().
struct ReadToken {
    uint64_t key = 0;
    std::optional<GeneratedToken> token;  // none: the stream has ended
    std::exception_ptr failure;
    std::shared_ptr<Generation> stream;
    std::shared_ptr<const Constraint> constraint;  // may be null; for Generation::tell()
};

class StreamReader {
  public:
    StreamReader();  // throws Error if the system has no descriptor left
    ~StreamReader();
    StreamReader(const StreamReader&) = delete;
    StreamReader& operator=(const StreamReader&) = delete;

    int descriptor() const;
    // The stream's next token will be among those to take, under this key. Throws Error where no
    // thread can be had.
    void begin(std::shared_ptr<Generation> stream, uint64_t key,
               std::shared_ptr<const Constraint> constraint);
    std::vector<ReadToken> take();

    // Cancels what is being read in this process and waits for its end; nothing begins after.
    static void end_all();

  private:
    struct Done;
    const std::shared_ptr<Done> done_;
};

}  // namespace gptoss

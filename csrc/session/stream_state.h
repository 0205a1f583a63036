// What a session keeps of a stream that was left, and how a file holds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "session/sampling.h"

namespace gptoss {

// Where a stream is that has not come to its end: with the tokens, all that is needed to go on.
struct StreamState {
    Sampling sampling;  // with the seed it was drawn by
    std::vector<int64_t> stop_ids;
    int generated_from = 0;  // position of its first token
    int64_t left = -1;       // tokens; below 0: until the context is full
};

std::vector<std::byte> to_bytes(const StreamState& state);
// None if they are not those of a state.
std::optional<StreamState> to_stream_state(std::span<const std::byte> bytes);

}  // namespace gptoss

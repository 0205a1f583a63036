// Which tokens a row may choose from, asked for while its step is computed.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace gptoss {

// Sets the bits of the tokens allowed in [mask_words(vocab)] zeroed words, bit t % 32 of word
// t / 32. Called on the thread that computes the step, more than once where a step is computed
// again; what it throws ends its own row alone.
using FillMask = std::function<void(std::span<uint32_t> mask)>;

// Calls it and clears the bits from vocab on. Throws what it throws, and Error where no token is
// allowed.
void fill_mask(const FillMask& fill, std::span<uint32_t> mask, int vocab, uint64_t position);

}  // namespace gptoss

// Which tokens a row may choose from, asked for while its step is computed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace gptoss {

// Sets the bits of the tokens allowed in [mask_words(vocab)] zeroed words, bit t % 32 of word
// t / 32. Called on the thread that computes the step, more than once where a step is computed
// again; what it throws ends its own row alone.
using FillMask = std::function<void(std::span<uint32_t> mask)>;

// Calls it and clears the bits from vocab on. Throws what it throws, and Error where no token is
// allowed.
void fill_mask(const FillMask& fill, std::span<uint32_t> mask, int vocab, uint64_t position);

// A mask that is known before its step begins, and holds again after any token of `stays`. Bits lie
// as in FillMask; words that are not there are zero.
struct FixedMask {
    std::vector<uint32_t> allowed, stays;

    bool stays_after(int token) const;
};

// Writes `fixed` to [mask_words(vocab)] words, with the bits from vocab on clear. False if no token
// of the vocabulary is allowed, or words beyond it are there.
bool copy_mask(const FixedMask& fixed, std::span<uint32_t> mask, int vocab);

}  // namespace gptoss

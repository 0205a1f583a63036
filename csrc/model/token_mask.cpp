#include "model/token_mask.h"

#include <algorithm>

#include "base/error.h"

namespace gptoss {
namespace {

// Clears the bits from vocab on. False if none is left.
bool trim(std::span<uint32_t> mask, int vocab) {
    if (vocab % 32) mask.back() &= (uint32_t{1} << vocab % 32) - 1;
    return std::any_of(mask.begin(), mask.end(), [](uint32_t word) { return word != 0; });
}

}  // namespace

void fill_mask(const FillMask& fill, std::span<uint32_t> mask, int vocab, uint64_t position) {
    std::fill(mask.begin(), mask.end(), 0);
    fill(mask);
    if (!trim(mask, vocab))
        throw Error(message("the constraint allows no token at position ", position));
}

bool FixedMask::stays_after(int token) const {
    const auto word = static_cast<size_t>(token) / 32;
    return word < stays.size() && (stays[word] >> token % 32 & 1);
}

bool copy_mask(const FixedMask& fixed, std::span<uint32_t> mask, int vocab) {
    if (fixed.allowed.size() > mask.size()) return false;
    std::fill(mask.begin(), mask.end(), 0);
    std::copy(fixed.allowed.begin(), fixed.allowed.end(), mask.begin());
    return trim(mask, vocab);
}

}  // namespace gptoss

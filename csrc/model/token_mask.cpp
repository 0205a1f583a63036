#include "model/token_mask.h"

#include <algorithm>

#include "base/error.h"

namespace gptoss {

void fill_mask(const FillMask& fill, std::span<uint32_t> mask, int vocab, uint64_t position) {
    std::fill(mask.begin(), mask.end(), 0);
    fill(mask);
    if (vocab % 32) mask.back() &= (uint32_t{1} << vocab % 32) - 1;
    if (std::all_of(mask.begin(), mask.end(), [](uint32_t word) { return word == 0; }))
        throw Error(message("the constraint allows no token at position ", position));
}

}  // namespace gptoss

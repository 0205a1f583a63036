#include "session/draft.h"

#include <algorithm>
#include <cstddef>

namespace gptoss {

size_t PromptLookup::GramHash::operator()(const Gram& gram) const {
    uint64_t out = 0;
    for (int token : gram.token)
        out = (out ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15u ^ out >> 29;
    return out;
}

PromptLookup::Gram PromptLookup::gram_before(std::span<const int> tokens, size_t end) {
    Gram out;
    std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(end - kGram), kGram, out.token);
    return out;
}

std::vector<int> PromptLookup::propose(std::span<const int> tokens, int most) {
    for (; known_ < tokens.size(); ++known_) after_[gram_before(tokens, known_)] = known_;
    if (tokens.size() < kGram) return {};
    const auto found = after_.find(gram_before(tokens, tokens.size()));
    if (found == after_.end()) return {};
    // What repeats may go on repeating.
    const auto rest = tokens.subspan(found->second);
    std::vector<int> out(most);
    for (size_t i = 0; i < out.size(); ++i) out[i] = rest[i % rest.size()];
    return out;
}

}  // namespace gptoss

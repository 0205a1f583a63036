// The logits of the tokens that a mask allows, side by side by rising id: what chooses among them
// reads no others. A token's place there is its rank.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/stages.h"

namespace gptoss::cpu {

class AllowedTokens {
  public:
    // No mask: all tokens, where they are.
    AllowedTokens(const float* logits, int vocab, const uint32_t* mask)
        : mask_(mask), vocab_(vocab), logits_(logits), count_(vocab) {
        if (mask) gather();
    }

    const float* logits() const { return logits_; }  // [count()]
    int count() const { return count_; }

    // The token of a rank.
    int token(int rank) const {
        if (!mask_) return rank;
        const auto after = std::upper_bound(before_.begin(), before_.end(), rank);
        const auto word = static_cast<int>(after - before_.begin()) - 1;
        uint32_t bits = word_at(word);
        for (int i = before_[word]; i < rank; ++i) bits &= bits - 1;
        return 32 * word + std::countr_zero(bits);
    }
    // The rank of a token; -1 where it is not allowed.
    int rank(int token) const {
        if (!mask_) return token;
        const uint32_t bits = word_at(token / 32), bit = uint32_t{1} << token % 32;
        return bits & bit ? before_[token / 32] + std::popcount(bits & (bit - 1)) : -1;
    }

  private:
    uint32_t word_at(int word) const {
        const int left = vocab_ - 32 * word;
        return left < 32 ? mask_[word] & ((uint32_t{1} << left) - 1) : mask_[word];
    }

    void gather() {
        const int words = mask_words(vocab_);
        before_.resize(words);
        gathered_ = std::make_unique_for_overwrite<float[]>(vocab_ + 1);
        float* out = gathered_.get();
        for (int word = 0; word < words; ++word) {
            before_[word] = static_cast<int>(out - gathered_.get());
            out = gather_word(logits_ + 32 * word, word_at(word), vocab_ - 32 * word, out);
        }
        logits_ = gathered_.get();
        count_ = static_cast<int>(out - gathered_.get());
    }

    // Where some are allowed all are written, and the next one overwrites what is not.
    static float* gather_word(const float* logits, uint32_t bits, int left, float* out) {
        if (bits == 0) return out;
        if (bits == ~uint32_t{0}) return std::copy_n(logits, 32, out);
        for (int i = 0; i < std::min(left, 32); ++i) {
            *out = logits[i];
            out += bits >> i & 1;
        }
        return out;
    }

    const uint32_t* mask_;  // [mask_words(vocab)]
    int vocab_;
    const float* logits_;
    int count_;
    std::vector<int> before_;  // [mask_words(vocab)]   how many are allowed in earlier words
    std::unique_ptr<float[]> gathered_;
};

}  // namespace gptoss::cpu

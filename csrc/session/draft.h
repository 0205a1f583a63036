// Guesses of what comes next, which the model checks in one step.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace gptoss {

// Whoever proposes tokens: what is accepted is what would have come without, whatever was proposed.
// A head that needs the model's hidden states would be given them here, beside the tokens.
class Draft {
  public:
    virtual ~Draft() = default;
    // Tokens that may follow these, at most so many; the same sequence is given again, longer.
    virtual std::vector<int> propose(std::span<const int> tokens, int most) = 0;
};

// What followed the last three tokens where they stood before (prompt lookup).
class PromptLookup : public Draft {
  public:
    std::vector<int> propose(std::span<const int> tokens, int most) override;

  private:
    static constexpr int kGram = 3;
    struct Gram {
        int token[kGram];
        bool operator==(const Gram&) const = default;
    };
    struct GramHash {
        size_t operator()(const Gram& gram) const;
    };
    static Gram gram_before(std::span<const int> tokens, size_t end);

    std::unordered_map<Gram, size_t, GramHash> after_;  // where its last occurrence ends
    size_t known_ = kGram;                              // grams that end before this are in the map
};

// How many proposed tokens to check: as many as give most tokens a second, by how often proposals
// came true of late and what steps of so many rows took.
class DraftLength {
  public:
    // With the token before them 8 rows: for so many CUDA's dense products read weights once.
    static constexpr int kMost = 7;

    // Of the proposed the first `sure` come true: a row never takes longer than a step of its own.
    // `seconds(rows)` of a step in which `others` rows are not this one's.
    template <class Seconds>
    int best(int proposed, int sure, int others, Seconds seconds) const {
        const double alone = seconds(others + 1);
        double tokens = 1, chance = 1, most = 1;
        int out = 0;
        for (int i = 1; i <= proposed && i <= kMost; ++i) {
            if (i > sure) chance *= share_;
            tokens += chance;
            const double rate = tokens * alone / seconds(others + 1 + i);
            if (i <= sure || rate > kLeastGain * most) {
                most = rate;
                out = i;
            }
        }
        return out;
    }
    // A proposed token, whose turn came, was the right one or not.
    void saw(bool right) { share_ += kWeight * ((right ? 1 : 0) - share_); }

  private:
    // What is gained must be worth the steps' uncertainty.
    static constexpr double kLeastGain = 1.05, kWeight = 0.1;
    double share_ = 0.5;  // of proposals that come true
};

}  // namespace gptoss

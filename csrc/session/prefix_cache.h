// What sequences have computed, by their tokens: a radix tree, so that a prompt which begins as an
// earlier one did goes on from there, whichever session that was.
//
// A path from the root is a sequence of keys, a key a token and the form it was computed in. Some
// nodes hold the prefix that ends there. The one used longest ago goes first.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "session/kv_cache.h"

namespace gptoss {

class PrefixCache {
  public:
    using Key = uint32_t;

    // Of blocks that it holds, used by sessions or not; 0: it holds nothing.
    explicit PrefixCache(size_t limit_bytes) : limit_(limit_bytes) {}

    struct Match {
        int common = 0;                          // leading keys of some path
        std::shared_ptr<const KvPrefix> prefix;  // the longest of at most `most`; null: none
    };
    Match find(std::span<const Key> keys, int most);
    bool holds(std::span<const Key> keys) const;
    // Nothing happens where it takes more than all may.
    void insert(std::span<const Key> keys, KvPrefix prefix);
    // Gives up what was used longest ago among what frees memory. False if nothing does.
    bool evict();
    // The same of all. False if there is nothing.
    bool drop_oldest();
    void clear();

    size_t limit() const { return limit_; }
    size_t bytes() const { return bytes_; }
    size_t size() const { return size_; }

  private:
    struct Node {
        std::vector<Key> edge;  // keys from the parent's end to this one's
        Node* parent = nullptr;
        std::map<Key, std::unique_ptr<Node>> children;  // by the first key of their edges
        std::shared_ptr<const KvPrefix> prefix;         // may be null
        uint64_t used = 0;                              // when, in calls
    };
    struct Walk {
        Node* node;  // the last one entered
        size_t in;   // keys of its edge that agree
        int common;  // keys that agree in all
    };
    Walk walk(std::span<const Key> keys) const;
    Node* split(Node* node, size_t in);
    void drop(Node* node);
    template <class Use>
    static void for_each_node(Node& node, Use use);

    const size_t limit_;
    size_t bytes_ = 0, size_ = 0;
    uint64_t now_ = 0;
    std::unique_ptr<Node> root_ = std::make_unique<Node>();
};

}  // namespace gptoss

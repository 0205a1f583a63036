#include "session/prefix_cache.h"

#include <algorithm>

namespace gptoss {
namespace {

template <class Use>
void for_each_block(const KvPrefix& prefix, Use use) {
    for (const HeldBlock& page : prefix.pages) use(*page.operator->());
    if (prefix.window) use(*prefix.window.operator->());
}

// Whether memory comes free when the tree gives it up.
bool frees(const KvPrefix& prefix) {
    bool out = false;
    for_each_block(prefix,
                   [&](const KvBlock& block) { out = out || block.pins() == block.prefixes; });
    return out;
}

}  // namespace

template <class Use>
void PrefixCache::for_each_node(Node& node, Use use) {
    std::vector<Node*> left = {&node};
    while (!left.empty()) {
        Node* const next = left.back();
        left.pop_back();
        for (auto& [key, child] : next->children) left.push_back(child.get());
        use(*next);
    }
}

PrefixCache::Walk PrefixCache::walk(std::span<const Key> keys) const {
    Walk at = {root_.get(), 0, 0};
    while (at.common < static_cast<int>(keys.size())) {
        const auto child = at.node->children.find(keys[at.common]);
        if (child == at.node->children.end()) break;
        const auto rest = keys.subspan(at.common);
        at.node = child->second.get();
        const std::vector<Key>& edge = at.node->edge;
        const auto most = static_cast<std::ptrdiff_t>(std::min(edge.size(), rest.size()));
        at.in = std::mismatch(edge.begin(), edge.begin() + most, rest.begin()).first - edge.begin();
        at.common += static_cast<int>(at.in);
        if (at.in < edge.size()) break;
    }
    return at;
}

PrefixCache::Match PrefixCache::find(std::span<const Key> keys, int most) {
    const Walk at = walk(keys);
    Match out = {at.common, nullptr};
    Node* node = at.in < at.node->edge.size() ? at.node->parent : at.node;
    while (node && !(node->prefix && node->prefix->positions <= most)) node = node->parent;
    if (!node) return out;
    node->used = ++now_;
    out.prefix = node->prefix;
    return out;
}

bool PrefixCache::holds(std::span<const Key> keys) const {
    const Walk at = walk(keys);
    return at.common == static_cast<int>(keys.size()) && at.in == at.node->edge.size() &&
           at.node->prefix;
}

void PrefixCache::insert(std::span<const Key> keys, KvPrefix prefix) {
    size_t bytes = 0;
    for_each_block(prefix, [&](const KvBlock& block) { bytes += block.bytes(); });
    if (bytes > limit_ || holds(keys)) return;
    auto held = std::make_shared<const KvPrefix>(std::move(prefix));
    const Walk at = walk(keys);
    Node* node = at.in < at.node->edge.size() ? split(at.node, at.in) : at.node;
    const auto rest = keys.subspan(at.common);
    if (!rest.empty()) {
        auto leaf = std::make_unique<Node>();
        leaf->edge.assign(rest.begin(), rest.end());
        leaf->parent = node;
        Node* const made = leaf.get();
        node->children.emplace(rest.front(), std::move(leaf));
        node = made;
    }
    node->prefix = std::move(held);
    node->used = ++now_;
    ++size_;
    for_each_block(*node->prefix, [&](KvBlock& block) {
        if (block.prefixes++ == 0) bytes_ += block.bytes();
    });
    while (bytes_ > limit_) drop_oldest();
}

bool PrefixCache::drop_oldest() {
    Node* oldest = nullptr;
    for_each_node(*root_, [&](Node& one) {
        if (one.prefix && (!oldest || one.used < oldest->used)) oldest = &one;
    });
    if (oldest) drop(oldest);
    return oldest;
}

// A node of its own for the first `in` keys of the node's edge.
PrefixCache::Node* PrefixCache::split(Node* node, size_t in) {
    auto upper = std::make_unique<Node>();
    const auto cut = node->edge.begin() + static_cast<std::ptrdiff_t>(in);
    upper->edge.assign(node->edge.begin(), cut);
    upper->parent = node->parent;
    const Key lower_key = *cut;
    std::unique_ptr<Node>& place = node->parent->children.at(upper->edge.front());
    upper->children[lower_key] = nullptr;
    // Nothing below throws.
    node->edge.erase(node->edge.begin(), cut);
    node->parent = upper.get();
    upper->children[lower_key] = std::move(place);
    place = std::move(upper);
    return place.get();
}

bool PrefixCache::evict() {
    Node* oldest = nullptr;
    for_each_node(*root_, [&](Node& one) {
        if (one.prefix && (!oldest || one.used < oldest->used) && frees(*one.prefix)) oldest = &one;
    });
    if (oldest) drop(oldest);
    return oldest;
}

// The prefix, and the nodes that stood there for it alone.
void PrefixCache::drop(Node* node) {
    for_each_block(*node->prefix, [&](KvBlock& block) {
        if (--block.prefixes == 0) bytes_ -= block.bytes();
    });
    node->prefix.reset();
    --size_;
    while (node->parent && !node->prefix && node->children.empty()) {
        Node* const parent = node->parent;
        parent->children.erase(node->edge.front());
        node = parent;
    }
}

void PrefixCache::clear() {
    root_ = std::make_unique<Node>();
    bytes_ = size_ = 0;
}

}  // namespace gptoss

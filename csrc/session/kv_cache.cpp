#include "session/kv_cache.h"

namespace gptoss {

void KvCache::reserve(int positions) {
    if (!ring_.data() && geometry_.ring_bytes)
        ring_ = Memory(geometry_.ring_bytes, "a session's sliding-window cache");
    while (geometry_.page_bytes && static_cast<int>(pages_.size()) < geometry_.pages(positions)) {
        Memory page(geometry_.page_bytes, "a page of a session's cache");
        page_data_.reserve(pages_.size() + 1);
        pages_.push_back(std::move(page));
        page_data_.push_back(pages_.back().data());
    }
    view_ = {page_data_.data(), ring_.data()};
}

}  // namespace gptoss

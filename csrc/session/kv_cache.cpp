#include "session/kv_cache.h"

#include "base/error.h"

namespace gptoss {

std::byte** KvCache::page_table() const {
    return reinterpret_cast<std::byte**>(table_.data() + sizeof(KvView));
}

void KvCache::reserve(Backend& backend, int positions) {
    if (!table_.data()) {
        if (geometry_.ring_bytes)
            ring_ = backend.allocate(geometry_.ring_bytes, "a session's sliding-window cache");
        table_ = backend.allocate(sizeof(KvView) + most_pages_ * sizeof(std::byte*),
                                  "a session's table of pages");
        const KvView view = {page_table(), ring_.data()};
        backend.write(table_.data(), &view, sizeof(view));
    }
    while (geometry_.page_bytes && static_cast<int>(pages_.size()) < geometry_.pages(positions)) {
        pages_.reserve(pages_.size() + 1);
        StageMemory page = backend.allocate(geometry_.page_bytes, "a page of a session's cache");
        std::byte* const data = page.data();
        backend.write(page_table() + pages_.size(), &data, sizeof(data));
        pages_.push_back(std::move(page));
    }
}

bool KvCache::try_reserve(Backend& backend, int positions) {
    try {
        reserve(backend, positions);
        return true;
    } catch (const OutOfMemory&) {
        return false;
    }
}

}  // namespace gptoss

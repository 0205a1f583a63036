// One sequence's keys and values: a ring for the windowed layers, pages for the full ones, made as
// the sequence grows.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/kv_geometry.h"

namespace gptoss {

class KvCache {
  public:
    KvCache(const KvGeometry& geometry, int max_context)
        : geometry_(geometry), most_pages_(geometry.pages(max_context)) {}

    // Makes room for so many positions. Throws OutOfMemory and stays as it was.
    void reserve(Backend& backend, int positions);
    // False where reserve() would throw.
    bool try_reserve(Backend& backend, int positions);
    // In the backend's memory.
    const KvView* view() const { return reinterpret_cast<const KvView*>(table_.data()); }
    size_t bytes() const { return ring_.size() + pages_.size() * geometry_.page_bytes; }

  private:
    std::byte** page_table() const;

    KvGeometry geometry_;
    int most_pages_;
    StageMemory table_;  // KvView, then its pages [most_pages_]
    StageMemory ring_;
    std::vector<StageMemory> pages_;
};

}  // namespace gptoss

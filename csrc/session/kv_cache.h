// One sequence's keys and values: a ring for the windowed layers, pages for the full ones, made as
// the sequence grows.
#pragma once

#include <vector>

#include "base/memory.h"
#include "model/kv_geometry.h"

namespace gptoss {

class KvCache {
  public:
    explicit KvCache(const KvGeometry& geometry) : geometry_(geometry) {}

    // Makes room for so many positions. Throws OutOfMemory and stays as it was.
    void reserve(int positions);
    const KvView& view() const { return view_; }
    size_t bytes() const { return ring_.size() + pages_.size() * geometry_.page_bytes; }

  private:
    KvGeometry geometry_;
    Memory ring_;
    std::vector<Memory> pages_;
    std::vector<std::byte*> page_data_;
    KvView view_{};
};

}  // namespace gptoss

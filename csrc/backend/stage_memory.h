// A piece of a backend's memory, given back when it goes; it may outlive its backend.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace gptoss {

class StageMemory {
  public:
    using Release = std::function<void(std::byte*)>;

    StageMemory() = default;
    StageMemory(std::byte* data, size_t bytes, Release release)
        : data_(data, std::move(release)), size_(bytes) {}

    std::byte* data() const { return data_.get(); }
    size_t size() const { return size_; }

  private:
    std::unique_ptr<std::byte, Release> data_;
    size_t size_ = 0;
};

}  // namespace gptoss

// Page-aligned memory that goes back to the system the moment it is released.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace gptoss {

// Zeroed, aligned to 2 MiB when that large, on huge pages where the system has them.
class Memory {
  public:
    Memory() = default;
    // Throws OutOfMemory, naming `purpose` and the size.
    Memory(size_t bytes, const std::string& purpose);
    ~Memory();
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        swap(other);
        return *this;
    }

    std::byte* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    void swap(Memory& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(mapping_, other.mapping_);
        std::swap(mapping_bytes_, other.mapping_bytes_);
    }

    std::byte* data_ = nullptr;
    size_t size_ = 0;
    void* mapping_ = nullptr;
    size_t mapping_bytes_ = 0;
};

// What this machine could still give, other files' cache included; 0 where it does not say.
size_t available_memory();

constexpr size_t kCacheLine = 64;

inline size_t round_up(size_t value, size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// Hands out cache-line aligned pieces of one region, in order. Over a null base it only counts.
class Carver {
  public:
    Carver() = default;
    Carver(std::byte* base, size_t bytes) : base_(base), bytes_(bytes) {}

    template <class T>
    T* take(size_t count) {
        std::byte* piece = base_ ? base_ + used_ : nullptr;
        used_ += round_up(count * sizeof(T), kCacheLine);
        return reinterpret_cast<T*>(base_ && used_ <= bytes_ ? piece : nullptr);
    }
    size_t used() const { return used_; }

  private:
    std::byte* base_ = nullptr;
    size_t bytes_ = 0;
    size_t used_ = 0;
};

}  // namespace gptoss

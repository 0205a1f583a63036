// A 64-bit hash of bytes, to notice damage and mistakes, not malice. Depends on the order of the
// pieces and not on how they are cut, as long as all but the last are multiples of 8 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gptoss {

class Hash {
  public:
    void add(const void* data, size_t bytes) {
        const auto* p = static_cast<const unsigned char*>(data);
        for (; bytes >= 8; p += 8, bytes -= 8) mix(p, 8);
        if (bytes) mix(p, bytes);
    }
    template <class T>
    void add_value(const T& value) {
        add(&value, sizeof(value));
    }
    // A multiplication carries low bits up only: the last shifts bring high ones down.
    uint64_t value() const { return (state_ ^ state_ >> 29) * kOdd ^ state_ >> 32; }

  private:
    static constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;

    void mix(const unsigned char* p, size_t bytes) {
        uint64_t word = 0;
        std::memcpy(&word, p, bytes);
        state_ = (state_ ^ word) * kOdd;
        state_ ^= state_ >> 32;
    }

    uint64_t state_ = kOdd;
};

}  // namespace gptoss

// A small random generator, and a random order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace gptoss::emulation {

// SplitMix64.
struct Random {
    uint64_t state;

    uint64_t next() {
        state += 0x9e3779b97f4a7c15u;
        uint64_t z = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // Below n, as even as 32 bits allow.
    size_t below(size_t n) { return (next() >> 32) * n >> 32; }
};

template <class T>
void shuffle(T* items, size_t count, Random& random) {
    for (size_t i = count; i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
}

}  // namespace gptoss::emulation

// Counter-based random numbers: a value depends on its key and index alone. Constexpr, so that
// device code may call them too.
#pragma once

#include <cstdint>

namespace gptoss {

// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
constexpr uint64_t mix_bits(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

constexpr uint64_t random_bits(uint64_t key, uint64_t index) {
    return mix_bits(key + index * 0x9e3779b97f4a7c15u);
}

// In [0, 1), on a grid of 2**-53.
constexpr double random_unit(uint64_t key, uint64_t index) {
    return static_cast<double>(random_bits(mix_bits(key + 1), index) >> 11) * 0x1p-53;
}

}  // namespace gptoss

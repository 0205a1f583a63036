#include "weights/random_source.h"

#include <cmath>
#include <cstring>
#include <string_view>

#include "base/random.h"

namespace gptoss {
namespace {

constexpr int kQuantiles = 4096;

uint64_t name_key(std::string_view name, uint64_t seed) {
    uint64_t key = mix_bits(seed + 1);
    for (unsigned char c : name) key = mix_bits(key ^ c);
    return key;
}

// The x in (-8, 8) below which a standard normal value falls with probability p.
double normal_quantile(double p) {
    double low = -8, high = 8;
    for (int i = 0; i < 60; ++i) {
        const double middle = (low + high) / 2;
        (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
    }
    return (low + high) / 2;
}

}  // namespace

RandomSource::RandomSource(uint64_t seed) : seed_(seed), quantiles_(kQuantiles) {
    for (int i = 0; i < kQuantiles; ++i)
        quantiles_[i] = static_cast<float>(normal_quantile((i + 0.5) / kQuantiles));
}

RandomSource::Spread RandomSource::spread(const TensorSpec& tensor) const {
    const std::string_view name = tensor.name;
    const auto ends = [&](std::string_view tail) { return name.ends_with(tail); };
    if (ends("norm.weight")) return {1.0, 0.1};
    if (ends("sinks")) return {0.0, 1.0};
    if (ends("router.bias")) return {0.0, 0.5};
    if (ends("bias")) return {0.0, 0.1};
    if (ends("embed_tokens.weight")) return {0.0, 1.0};
    const double unit = 1 / std::sqrt(static_cast<double>(tensor.shape.back()));
    // Logits and expert scores twice as wide, so that choices are not all ties.
    return {0.0, ends("lm_head.weight") || ends("router.weight") ? 2 * unit : unit};
}

void RandomSource::read(const TensorRange& range, bool, std::byte* out) const {
    const TensorSpec& tensor = *range.tensor;
    const uint64_t begin = range.begin, size = range.size;
    const uint64_t key = name_key(tensor.name, seed_);
    // Whole 64-bit words, so that a value does not depend on where a read starts.
    const uint64_t first = begin / 8, last = (begin + size + 7) / 8;
    std::vector<uint64_t> buffer(last - first);
    if (tensor.dtype == DType::kBf16) {
        const Spread s = spread(tensor);
        std::vector<bf16> table(kQuantiles);
        for (int i = 0; i < kQuantiles; ++i)
            table[i] = to_bf16(static_cast<float>(s.mean + s.deviation * quantiles_[i]));
        for (uint64_t i = first; i < last; ++i) {
            const uint64_t w = random_bits(key, i);
            uint64_t four = 0;
            for (int part = 0; part < 4; ++part)
                four |= uint64_t{table[w >> (16 * part) & (kQuantiles - 1)].bits} << (16 * part);
            buffer[i - first] = four;
        }
    } else if (tensor.name.ends_with("_scales")) {
        // A random FP4 value has the root mean square 2.93; the exponent varies by one either way.
        const double fan_in = 32.0 * static_cast<double>(tensor.shape.back());
        const auto low =
            static_cast<uint64_t>(126 + std::lround(std::log2(1 / (2.93 * std::sqrt(fan_in)))));
        for (uint64_t i = first; i < last; ++i) {
            const uint64_t w = random_bits(key, i);
            uint64_t eight = 0;
            for (int part = 0; part < 8; ++part)
                eight |= (low + (w >> (8 * part) & 0xff) % 3) << (8 * part);
            buffer[i - first] = eight;
        }
    } else {
        for (uint64_t i = first; i < last; ++i) buffer[i - first] = random_bits(key, i);
    }
    std::memcpy(out, reinterpret_cast<const std::byte*>(buffer.data()) + begin % 8, size);
}

}  // namespace gptoss

#include "model/kv_geometry.h"

#include <algorithm>

#include "base/memory.h"

namespace gptoss {
namespace {

constexpr int kRingMultiple = 16;  // of every key_tile

}  // namespace

KvGeometry::KvGeometry(const ModelConfig& c, Precision precision, const BackendTraits& traits) {
    // Keys and values follow a norm and are far below 65504; bfloat16's rounding, eight times
    // float16's, would be nearly all of what fast results lose.
    const DType type = precision == Precision::kExact ? DType::kF32 : DType::kF16;
    kv_heads_ = c.kv_heads;
    head_bytes_ = c.head_dim * dtype_bytes(type);
    const size_t position_bytes = 2 * kv_heads_ * head_bytes_;
    const int step_rows = std::max(traits.prefill_rows, traits.decode_rows);
    const int ring = static_cast<int>(round_up(c.sliding_window + step_rows, kRingMultiple));
    for (int n = 0; n < c.layers; ++n) {
        const bool windowed = c.windowed[n];
        KvLayer layer;
        layer.type = type;
        layer.key_tile = traits.key_tile;
        layer.window = windowed ? c.sliding_window : 0;
        layer.slots = windowed ? ring : kPageTokens;
        size_t& used = windowed ? ring_bytes : page_bytes;
        layer.offset = used;
        if (windowed) {
            window = c.sliding_window;
            ring_slots = ring;
            // Whole tiles at both ends.
            window_bytes += (window + 2 * (traits.key_tile - 1)) * position_bytes;
        }
        used += layer.slots * position_bytes;
        layers.push_back(layer);
    }
}

}  // namespace gptoss

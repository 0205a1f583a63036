#include "model/kv_geometry.h"

#include <algorithm>
#include <cstring>

#include "base/memory.h"

namespace gptoss {
namespace {

constexpr int kRingMultiple = 16;  // of every key_tile

}  // namespace

KvGeometry::KvGeometry(const ModelConfig& c, DType kv_type, const BackendTraits& traits)
    : type(kv_type), kv_heads_(c.kv_heads), head_bytes_(c.head_dim * dtype_bytes(type)) {
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

// Keys and then values of each head are parts; stages.h (KvLayer) says how their tiles lie.
void KvGeometry::clear_slot(std::byte* tiles, const KvLayer& layer, int part, int slot) const {
    const size_t bytes = dtype_bytes(layer.type), tile = layer.key_tile, lane = slot % tile;
    std::byte* const at = tiles + slot / tile * tile * head_bytes_;
    if (part >= kv_heads_) {
        std::memset(at + lane * head_bytes_, 0, head_bytes_);
        return;
    }
    for (size_t d = 0; d < head_bytes_ / bytes; ++d)
        std::memset(at + (d * tile + lane) * bytes, 0, bytes);
}

void KvGeometry::clear_page_from(std::byte* page, int held) const {
    for (const KvLayer& layer : layers)
        for (int part = 0; part < 2 * kv_heads_ && !layer.window; ++part)
            for (int slot = held; slot < layer.slots; ++slot)
                clear_slot(page + layer.offset + part * layer.slots * head_bytes_, layer, part,
                           slot);
}

void KvGeometry::clear_around_window(std::byte* packed, int begin, int end) const {
    std::byte* tiles = packed;
    for (const KvLayer& layer : layers) {
        if (!layer.window || begin == end) continue;
        const int tile = layer.key_tile, first = begin / tile * tile;
        const int slots = (end - 1) / tile * tile + tile - first;
        for (int part = 0; part < 2 * kv_heads_; ++part, tiles += slots * head_bytes_)
            for (int slot = 0; slot < slots; ++slot)
                if (first + slot < begin || first + slot >= end)
                    clear_slot(tiles, layer, part, slot);
    }
}

}  // namespace gptoss

// Where one position's key and value of one head lie (stages.h, KvLayer, says how).
#pragma once

#include "backend/stages.h"

namespace gptoss {

constexpr int kMostHeadDim = 64;

struct KvSlot {
    std::byte* key_tile;    // [head_dim][key_tile]
    std::byte* value_tile;  // [key_tile][head_dim]
    int lane;               // the position's place in both
};

constexpr KvSlot kv_slot(const KvView& kv, const KvLayer& layer, int position, int head,
                         int kv_heads, int head_dim) {
    const int slot = position % layer.slots;
    std::byte* base = layer.window ? kv.ring : kv.pages[position / layer.slots];
    const size_t element = dtype_bytes(layer.type);
    const size_t head_bytes = size_t(layer.slots) * head_dim * element;
    const size_t tile = size_t(slot / layer.key_tile) * layer.key_tile * head_dim * element;
    std::byte* keys = base + layer.offset + head * head_bytes + tile;
    return {keys, keys + kv_heads * head_bytes, slot % layer.key_tile};
}

}  // namespace gptoss

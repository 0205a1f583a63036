// How much cache a sequence needs and where each layer's part of it lies.
#pragma once

#include <algorithm>
#include <vector>

#include "backend/backend.h"
#include "weights/config.h"

namespace gptoss {

// The name of a type of keys and values: of the option kv, or "f32".
constexpr const char* kv_name(DType type) {
    return type == DType::kFp8 ? "fp8" : type == DType::kF16 ? "f16" : "f32";
}

// Full layers share pages: one page holds kPageTokens positions of all of them. Windowed layers
// share one ring, long enough that a step may write before its first row has read.
struct KvGeometry {
    static constexpr int kPageTokens = 128;

    // type: of keys and values, one of those of KvLayer.
    KvGeometry(const ModelConfig& config, DType type, const BackendTraits& traits);

    DType type;
    std::vector<KvLayer> layers;
    size_t page_bytes = 0;
    size_t ring_bytes = 0;
    size_t window_bytes = 0;  // the most that for_each_window_run() gives
    int window = 0;           // keys a windowed layer sees
    int ring_slots = 0;       // positions of the ring

    int pages(int positions) const { return (positions + kPageTokens - 1) / kPageTokens; }
    // Calls use(offset in the ring, bytes) for all that lies there of positions [begin, end), at
    // most a window of them, by whole tiles.
    template <class Use>
    void for_each_window_run(int begin, int end, Use use) const {
        for (const KvLayer& layer : layers) {
            if (!layer.window || begin == end) continue;
            const int first = begin / layer.key_tile, last = (end - 1) / layer.key_tile;
            const int tiles = layer.slots / layer.key_tile, at = first % tiles;
            const int before = std::min(last - first + 1, tiles - at);
            const int after = last - first + 1 - before;  // round the ring's end
            const size_t tile_bytes = head_bytes_ * layer.key_tile;
            for (int part = 0; part < 2 * kv_heads_; ++part) {
                const size_t base = layer.offset + part * tiles * tile_bytes;
                use(base + at * tile_bytes, before * tile_bytes);
                if (after) use(base, after * tile_bytes);
            }
        }
    }

    // In the host's memory: nothing is left in a page, or in what for_each_window_run() gave for
    // [begin, end), but those positions' keys and values.
    void clear_page_from(std::byte* page, int held) const;
    void clear_around_window(std::byte* packed, int begin, int end) const;

    // Of one sequence of so many positions.
    size_t bytes(int positions) const { return ring_bytes + pages(positions) * page_bytes; }

  private:
    void clear_slot(std::byte* tiles, const KvLayer& layer, int part, int slot) const;

    int kv_heads_;
    size_t head_bytes_;  // of one head's key, or value, at one position
};

}  // namespace gptoss

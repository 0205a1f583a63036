#include "backend/cpu/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gptoss::cpu {
namespace {

uint32_t load_word(const void* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    return word;
}

// Eight nibbles n0..n7 of consecutive columns, lowest first, to bytes n0|n4, n1|n5, n2|n6, n3|n7,
// so that one mask and one shift give four consecutive columns each.
uint32_t split_nibbles(uint32_t word) {
    const auto spread = [](uint32_t four) {
        four = (four | four << 8) & 0x00ff00ffu;
        return (four | four << 4) & 0x0f0f0f0fu;
    };
    return spread(word & 0xffffu) | spread(word >> 16) << 4;
}

// The transposition all packings share: word i of row r goes to word 16 i + r.
template <class T, class Convert>
void interleave(const PanelRows<T>& rows, int words, std::byte* panel, Convert convert) {
    auto* out = reinterpret_cast<uint32_t*>(panel);
    for (int r = 0; r < kPanelRows; ++r) {
        const T* row = rows.row[r];
        for (int i = 0; i < words; ++i)
            out[kPanelRows * i + r] = row ? convert(reinterpret_cast<const char*>(row) + 4 * i) : 0;
    }
}

}  // namespace

void pack_bf16(const PanelRows<bf16>& rows, int columns, std::byte* panel) {
    interleave(rows, columns / 2, panel, [](const char* p) { return load_word(p); });
}

void pack_mxfp4(const PanelRows<uint8_t>& rows, int columns, std::byte* panel) {
    interleave(rows, columns / 8, panel, [](const char* p) { return split_nibbles(load_word(p)); });
}

bool pack_e8m0(const PanelRows<uint8_t>& rows, int columns, std::byte* scales) {
    bool valid = true;
    for (int b = 0; b < columns / kBlock; ++b) {
        for (int r = 0; r < kPanelRows; ++r) {
            const uint8_t scale = rows.row[r] ? rows.row[r][b] : 0;
            valid &= scale != 255;
            scales[kPanelRows * b + r] = std::byte{scale};
        }
    }
    return valid;
}

void pack_int8(const PanelRows<bf16>& rows, int columns, std::byte* panel, std::byte* scales,
               SquaredError& squared) {
    auto* out = reinterpret_cast<uint8_t*>(panel);
    auto* scale_out = reinterpret_cast<bf16*>(scales);
    for (int r = 0; r < kPanelRows; ++r) {
        for (int b = 0; b < columns / kBlock; ++b) {
            float w[kBlock] = {}, largest = 0;
            for (int i = 0; rows.row[r] && i < kBlock; ++i) {
                w[i] = to_float(rows.row[r][kBlock * b + i]);
                largest = std::max(largest, std::fabs(w[i]));
            }
            // Rounded up, so that the largest value still fits in 127 steps.
            bf16 scale = to_bf16(largest / 127);
            if (to_float(scale) * 127 < largest) ++scale.bits;
            scale_out[kPanelRows * b + r] = scale;
            const float step = to_float(scale);
            for (int i = 0; i < kBlock; ++i) {
                const float q = step > 0 ? std::nearbyint(w[i] / step) : 0;
                const int j = (kBlock * b + i) / 4;
                out[(kPanelRows * j + r) * 4 + i % 4] = static_cast<uint8_t>(
                    std::clamp(static_cast<int>(q), -127, 127) + 128);
                squared.error += (q * step - w[i]) * (q * step - w[i]);
                squared.weight += w[i] * w[i];
            }
        }
    }
}

}  // namespace gptoss::cpu

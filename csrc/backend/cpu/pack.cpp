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

// Rounds a block to q - 128 steps of the scale returned. Written in loops that compilers turn into
// vector code: this is what bounds loading with int8 weights.
bf16 round_block(const float* w, uint8_t* q, SquaredError& squared) {
    float lanes[8] = {};
    for (int i = 0; i < kBlock; ++i) lanes[i % 8] = std::max(lanes[i % 8], std::fabs(w[i]));
    const float largest = *std::max_element(lanes, lanes + 8);
    float poison = 0;  // NaN where a weight is not finite: then the scale is, and every result
    for (int i = 0; i < kBlock; ++i) poison += w[i] - w[i];
    if (poison != 0 || largest < 1e-30f) {
        std::fill(q, q + kBlock, uint8_t{128});
        for (int i = 0; i < kBlock; ++i) {
            squared.error += w[i] * w[i];
            squared.weight += w[i] * w[i];
        }
        return to_bf16(poison);
    }
    // Rounded up, so that the largest value still fits in 127 steps.
    bf16 scale = to_bf16(largest / 127);
    if (to_float(scale) * 127 < largest) ++scale.bits;
    const float step = to_float(scale), steps = 1 / step;
    // Adding 1.5 * 2**23 leaves no bits for a fraction: rounds to nearest.
    constexpr float kRound = 12582912.0f;
    float error[8] = {}, weight[8] = {};
    for (int i = 0; i < kBlock; ++i) {
        const float rounded = (w[i] * steps + kRound) - kRound;
        const float clamped = std::min(std::max(rounded, -127.0f), 127.0f);
        q[i] = static_cast<uint8_t>(static_cast<int>(clamped) + 128);
        const float lost = clamped * step - w[i];
        error[i % 8] += lost * lost;
        weight[i % 8] += w[i] * w[i];
    }
    for (int i = 0; i < 8; ++i) {
        squared.error += error[i];
        squared.weight += weight[i];
    }
    return scale;
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
    auto* out = reinterpret_cast<uint32_t*>(panel);
    auto* scale_out = reinterpret_cast<bf16*>(scales);
    for (int r = 0; r < kPanelRows; ++r) {
        for (int b = 0; b < columns / kBlock; ++b) {
            float w[kBlock] = {};
            for (int i = 0; rows.row[r] && i < kBlock; ++i)
                w[i] = to_float(rows.row[r][kBlock * b + i]);
            uint8_t q[kBlock];
            scale_out[kPanelRows * b + r] = round_block(w, q, squared);
            for (int j = 0; j < kBlock / 4; ++j)
                out[kPanelRows * (kBlock / 4 * b + j) + r] = load_word(q + 4 * j);
        }
    }
}

}  // namespace gptoss::cpu

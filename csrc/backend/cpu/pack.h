// From published rows to panels of 16 rows (kernels.h says how a panel is laid out).
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "base/dtype.h"

namespace gptoss::cpu {

// Sixteen source rows of a panel; a null row is packed as zeros.
template <class T>
struct PanelRows {
    const T* row[kPanelRows];
};

void pack_bf16(const PanelRows<bf16>& rows, int columns, std::byte* panel);

// Rounds blocks of 32 to value * scale with |value| <= 127; adds to the squared error and weight.
struct SquaredError {
    double error = 0, weight = 0;
};
void pack_int8(const PanelRows<bf16>& rows, int columns, std::byte* panel, std::byte* scales,
               SquaredError& squared);

// Rows of columns / 32 published blocks of 16 bytes; exact.
void pack_mxfp4(const PanelRows<uint8_t>& rows, int columns, std::byte* panel);
// Rows of columns / 32 scale bytes. False if one is 255, which means NaN.
bool pack_e8m0(const PanelRows<uint8_t>& rows, int columns, std::byte* scales);

}  // namespace gptoss::cpu

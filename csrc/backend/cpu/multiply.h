// Matrix times activation rows, split into panels over the threads.
#pragma once

#include <algorithm>

#include "backend/cpu/kernels.h"
#include "backend/stages.h"
#include "base/thread_pool.h"

namespace gptoss::cpu {

// out[row][lane] of one panel, rows at most kMostProductRows.
inline void multiply_panel(Product product, const Matrix& m, int expert, int panel,
                           const void* const* x, int rows, float (*out)[kPanelRows]) {
    const int panels = panel_count(m.rows);
    const std::byte* data = m.data + expert * m.data_stride + m.data_stride / panels * panel;
    const std::byte* scales =
        m.scales ? m.scales + expert * m.scale_stride + m.scale_stride / panels * panel : nullptr;
    product(data, scales, m.columns, x, rows, out[0]);
}

// Calls use(row, first_output, outputs, values) for every row and panel of matrix times x; rows of
// x are 4 * columns bytes apart. use runs on any thread, once for each (row, panel).
template <class Use>
void multiply(ThreadPool& pool, const Kernels& kernels, Product product, const Matrix& m,
              const std::byte* x, int rows, Use use) {
    // Several panels a task reuse the rows in the nearest cache; fewer when there is little to do.
    constexpr int kMostPanels = 8;
    const int panels = panel_count(m.rows);
    const int group = std::clamp(panels / (8 * pool.threads()), 1, kMostPanels);
    pool.run((panels + group - 1) / group, [&](int64_t task, int) {
        const int begin = static_cast<int>(task) * group, end = std::min(begin + group, panels);
        for (int first = 0; first < rows; first += kernels.max_rows) {
            const int count = std::min(kernels.max_rows, rows - first);
            const void* row[kMostProductRows];
            for (int r = 0; r < count; ++r) row[r] = x + size_t(first + r) * m.columns * 4;
            for (int panel = begin; panel < end; ++panel) {
                float out[kMostProductRows][kPanelRows];
                multiply_panel(product, m, 0, panel, row, count, out);
                const int output = panel * kPanelRows;
                for (int r = 0; r < count; ++r)
                    use(first + r, output, std::min(kPanelRows, m.rows - output), out[r]);
            }
        }
    });
}

}  // namespace gptoss::cpu

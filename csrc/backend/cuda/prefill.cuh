// The prefill form's products by whichever kernel the form is for.
#pragma once

#include "backend/cuda/prefill_form.cuh"
#include "backend/cuda/prefill_product.cuh"
#include "backend/cuda/prefill_warpgroup.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {

// Dense weights over all of `rows` rows.
template <class Form, class Epilogue>
void launch_dense_prefill(const Device& device, const Matrix& m, const std::byte* own, int rows,
                          const Epilogue& epilogue) {
    with_dense_tiles(m.format, [&](auto tiles) {
        using Tiles = decltype(tiles);
        if constexpr (Form::warpgroup) {
            const int size = group_tile_rows(device, m, rows);
            launch_group_prefill<Tiles>(device, m, own, AllRows{rows}, (rows + size - 1) / size,
                                        size, epilogue);
        } else {
            constexpr bool kExact = Form::terms > kFastTerms;
            constexpr int kRowTiles = kExact ? 8 : 16;  // registers
            using Own = std::conditional_t<kExact && std::is_same_v<Tiles, Int8Tiles>,
                                           ExactInt8Tiles, Tiles>;
            launch_prefill<Own, Form::terms, kRowTiles>(
                device, m, own, AllRows{rows}, (rows + 8 * kRowTiles - 1) / (8 * kRowTiles),
                epilogue);
        }
    });
}

// Each expert's weights over its pairs, sorted before. `slots` as in SortedPairs.
template <class Form, class Epilogue>
void launch_expert_prefill(const Device& device, const Matrix& m, const std::byte* own, int slots,
                           int pairs, int experts, const Scratch& scratch,
                           const Epilogue& epilogue) {
    const SortedPairs rows = {scratch.sorted, scratch.tiles, scratch.tile_count, slots};
    const int tiles = pair_tiles(pairs, experts, Form::terms);
    if constexpr (Form::warpgroup)
        launch_group_prefill<Mxfp4Tiles>(device, m, own, rows, tiles, pair_tile_rows(Form::terms),
                                         epilogue);
    else
        launch_prefill<Mxfp4Tiles, Form::terms, pair_tile_rows(Form::terms) / 8>(
            device, m, own, rows, tiles, epilogue);
}

}  // namespace gptoss::cuda

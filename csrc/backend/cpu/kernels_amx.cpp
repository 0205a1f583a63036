// The prefill form on the tile unit. Nothing here may use the standard library's inline functions:
// the linker keeps one copy of each, and it may be the one compiled for this set.
#include "backend/cpu/tiles.h"

#ifdef GPTOSS_X86
#define GPTOSS_VEC_NAMESPACE amx
#include "backend/cpu/tile_instructions.h"
#include "backend/cpu/vec_avx512.h"

namespace gptoss::cpu::amx {
namespace {

#include "backend/cpu/exp.inl"

#include "backend/cpu/tile_product.inl"

#include "backend/cpu/tile_attention.inl"

void begin() { configure_tiles(TileConfiguration()); }

void end() { release_tiles(); }

void convert(const float* x, int n, ColumnOrder order, const TileRow& row) {
    if (order == ColumnOrder::kPlain) return convert_row(x, 1, n, row.values, row.stride);
    std::byte* out = row.values;
    const __m512i mxfp4 =
        _mm512_set_epi16(31, 29, 27, 25, 30, 28, 26, 24, 23, 21, 19, 17, 22, 20, 18, 16, 15, 13, 11,
                         9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0);
    for (int i = 0; i < n; i += 32, out += row.stride) {
        const __m512i plain = bits(_mm512_cvtne2ps_pbh(load(x + i + 16).v, load(x + i).v));
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(mxfp4, plain));
    }
}

void swiglu(const StripOutputs& out, int row, const float* bias, float limit, const TileRow& to) {
    const F32x16 one = splat(1);
    const __m256i mxfp4 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    for (int strip = 0; strip < out.strips; ++strip, bias += kStripRows) {
        const int half = out.first + strip;  // of 32 columns
        const float* from = out.row(strip, row);
        const F32x16 g = min(splat(limit), load(from) + load(bias));
        const F32x16 u = max(splat(-limit), min(splat(limit), load(from + 16) + load(bias + 16)));
        // To 14 bits, of which bf16 keeps 8.
        const F32x16 sigmoid = {_mm512_rcp14_ps((one + exp(g * splat(-1.702f))).v)};
        __m256bh act = _mm512_cvtneps_pbh((g * sigmoid * (u + one)).v);
        std::byte* at = to.values + half / 2 * to.stride + half % 2 * 32;
        _mm256_store_si256(reinterpret_cast<__m256i*>(at),
                           _mm256_shuffle_epi8(reinterpret_cast<__m256i&>(act), mxfp4));
    }
}

}  // namespace

const Tiles kTiles = {false,   begin,          end,           product, convert, swiglu,
                      nullptr, attention<fp8>, attention<f16>};

}  // namespace gptoss::cpu::amx
#endif

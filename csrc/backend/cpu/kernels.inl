// All inner loops and their table, for the instruction set whose vec_*.h came before. Included
// inside that set's namespace.
namespace {

#include "backend/cpu/product.inl"

#include "backend/cpu/exp.inl"

#include "backend/cpu/row.inl"

#include "backend/cpu/attention.inl"

#include "backend/cpu/pack.inl"

}  // namespace

static_assert(kMaxRows <= kMostProductRows);
const Kernels kKernels = {
    kIsa,
    kMaxRows,
    bf16_float_rows<kMaxRows>,
    int8_float_rows<kMaxRows>,
    int8_block_rows<kMaxRows>,
    mxfp4_float_rows<kMaxRows>,
    mxfp4_block_rows<kMaxRows>,
    rms_norm,
    quantize,
    swiglu,
    attention<fp8>,
    attention<f16>,
    attention<float>,
    max,
    sum_exp,
    exp_all,
    pack_bf16,
    pack_int8,
    pack_mxfp4,
    read,
};

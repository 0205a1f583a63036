// The inner loops for one instruction set. Nothing here may use the standard library's inline
// functions: the linker keeps one copy of each, and it may be the one compiled for this set.
#include "backend/cpu/kernels.h"
#include "backend/stages.h"

#ifdef GPTOSS_X86
#include "backend/cpu/vec_avx512.h"

namespace gptoss::cpu::avx512 {
namespace {

#include "backend/cpu/product.inl"
#include "backend/cpu/row.inl"
#include "backend/cpu/attention.inl"

}  // namespace

const Kernels kKernels = {
    Isa::kAvx512,
    kMaxRows,
    bf16_float_rows<kMaxRows>,
    int8_float_rows<kMaxRows>,
    int8_block_rows<kMaxRows>,
    mxfp4_float_rows<kMaxRows>,
    mxfp4_block_rows<kMaxRows>,
    rms_norm,
    quantize,
    swiglu,
    attention<bf16>,
    attention<float>,
    max,
    sum_exp,
    read,
};

}  // namespace gptoss::cpu::avx512
#endif

// The inner loops for one instruction set. Nothing here may use the standard library's inline
// functions: the linker keeps one copy of each, and it may be the one compiled for this set.
#include "backend/cpu/kernels.h"
#include "backend/cpu/tiles.h"
#include "backend/stages.h"

#ifdef GPTOSS_X86
#define GPTOSS_VEC_NAMESPACE avx512
#include "backend/cpu/vec_avx512.h"

namespace gptoss::cpu::avx512 {
#include "backend/cpu/kernels.inl"

#include "backend/cpu/wide_product.inl"
}  // namespace gptoss::cpu::avx512
#endif

// The inner loops for one instruction set. Nothing here may use the standard library's inline
// functions: the linker keeps one copy of each, and it may be the one compiled for this set.
#include "backend/cpu/kernels.h"
#include "backend/cpu/tiles.h"
#include "backend/stages.h"

#ifdef GPTOSS_X86
#include "backend/cpu/vec_avx2.h"

namespace gptoss::cpu::avx2 {
#include "backend/cpu/kernels.inl"

#include "backend/cpu/wide_product.inl"
}  // namespace gptoss::cpu::avx2
#endif

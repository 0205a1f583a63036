// The inner loops for one instruction set. Nothing here may use the standard library's inline
// functions: the linker keeps one copy of each, and it may be the one compiled for this set.
#include "backend/cpu/kernels.h"
#include "backend/cpu/vec_scalar.h"
#include "backend/stages.h"

namespace gptoss::cpu::scalar {
#include "backend/cpu/kernels.inl"
}  // namespace gptoss::cpu::scalar

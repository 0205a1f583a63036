// Which instruction sets this machine has, and which one to use.
#pragma once

#include <string>
#include <vector>

namespace gptoss::cpu {

enum class Isa { kScalar, kAvx2, kAvx512 };

const char* isa_name(Isa isa);
// Those that this build holds and this machine runs, slowest first.
std::vector<Isa> available_isas();
// The fastest available, or the one that the environment variable GPTOSS_ISA names (scalar, avx2,
// avx512). Throws InvalidArgument if that is unknown or not available here.
Isa choose_isa();

}  // namespace gptoss::cpu

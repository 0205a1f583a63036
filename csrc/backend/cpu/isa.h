// Which instruction sets this machine has, which one to use, and what suits its processor.
#pragma once

#include <string>
#include <vector>

namespace gptoss::cpu {

// Each holds those before it. AMX is the tile unit beside AVX-512, for prompt tokens.
enum class Isa { kScalar, kAvx2, kAvx512, kAmx };

const char* isa_name(Isa isa);
// Those that this build holds and this machine runs, slowest first. The first call
// asks the system for the tile unit's registers, for all threads of the process.
std::vector<Isa> available_isas();
// The fastest available, or the one that the environment variable GPTOSS_ISA names (scalar, avx2,
// avx512, amx). Throws InvalidArgument if that is unknown or not available here.
Isa choose_isa();
// How far ahead of a product its weights are to be asked for, in bytes; of one activation row's
// product with dense weights.
constexpr int kFarBytes = 8192;
extern const int far_bytes_of_one_row;

}  // namespace gptoss::cpu

#include "backend/cpu/isa.h"

#include <cstdlib>

#include "base/error.h"

namespace gptoss::cpu {

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::kScalar: return "scalar";
        case Isa::kAvx2: return "avx2";
        default: return "avx512";
    }
}

std::vector<Isa> available_isas() {
    std::vector<Isa> out = {Isa::kScalar};
#ifdef GPTOSS_X86
    // The compiler's own query also checks that the system saves the wide registers.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))
        out.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
        out.push_back(Isa::kAvx512);
#endif
    return out;
}

Isa choose_isa() {
    const std::vector<Isa> available = available_isas();
    const char* wanted = std::getenv("GPTOSS_ISA");
    if (!wanted || !*wanted) return available.back();
    std::string names;
    for (Isa isa : available) {
        if (std::string(wanted) == isa_name(isa)) return isa;
        names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
    }
    throw InvalidArgument(message("GPTOSS_ISA is \"", wanted, "\"; this machine has: ", names));
}

}  // namespace gptoss::cpu

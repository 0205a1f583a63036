#include "backend/cpu/isa.h"

#include <cstdlib>

#include "base/error.h"

#if defined(GPTOSS_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gptoss::cpu {
namespace {

#if defined(GPTOSS_X86) && defined(__linux__)
bool has_bits(unsigned value, unsigned bits) { return (value & bits) == bits; }

bool has_vector_bf16() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && has_bits(a, 1u << 5);
}

#ifdef GPTOSS_EMULATE_AMX
bool acquire_amx() { return has_vector_bf16(); }
#else
// Asks the processor, whether the system saves tile registers, and for leave to use them: a thread
// without it dies of its first tile instruction.
bool acquire_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kSystemSaves = 1u << 27;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has_bits(d, kBf16 | kTile)) return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_bits(c, kSystemSaves)) return false;
    unsigned low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr unsigned kTileState = 3u << 17;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return has_vector_bf16() && has_bits(low, kTileState) &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif
#else
bool acquire_amx() { return false; }
#endif

// Zen 4's own prefetcher reads on within a page; asking two pages ahead holds it up (43.5 of 62
// GB/s, 50.4 when asked 2 KiB ahead). With more rows, or MXFP4, it does not keep up alone. Other
// processors of AMD were not measured; Sapphire Rapids reads 97 % of what memory gives with the far
// distance.
int best_far_bytes_of_one_row() {
#ifdef GPTOSS_X86
    if (__builtin_cpu_is("amd")) return 2048;
#endif
    return kFarBytes;
}

}  // namespace

const int far_bytes_of_one_row = best_far_bytes_of_one_row();

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::kScalar: return "scalar";
        case Isa::kAvx2: return "avx2";
        case Isa::kAvx512: return "avx512";
        default: return "amx";
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
    static const bool amx = acquire_amx();
    if (amx && out.back() == Isa::kAvx512) out.push_back(Isa::kAmx);
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

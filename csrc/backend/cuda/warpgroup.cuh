// The warpgroup's matrix instruction (sm_90a): four warps multiply together, what the columns hold
// comes from shared memory, and a product runs on while its threads go on. Beside ptx.cuh, as only
// prefill_warpgroup.cuh needs it; tests/emulation/warpgroup.h has the same names.
#pragma once

#include "backend/cuda/ptx.cuh"

#ifdef GPTOSS_EMULATED
#define GPTOSS_HAS_WARPGROUPS 1
#include "emulation/warpgroup.h"
#else

// Where the code of another architecture is made, kernels that need it are empty.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define GPTOSS_HAS_WARPGROUPS 1
#endif

namespace gptoss::cuda {

// This block's dynamic shared memory, aligned to 1024 bytes: what a swizzled tile begins at.
__device__ __forceinline__ std::byte* shared_tiles() {
    extern __shared__ __align__(1024) unsigned char gptoss_shared_tiles[];
    return reinterpret_cast<std::byte*>(gptoss_shared_tiles);
}

#ifdef GPTOSS_HAS_WARPGROUPS

// Makes this thread's writes to shared memory, its asynchronous copies that it has waited for among
// them, visible to the matrix unit; a barrier follows.
__device__ __forceinline__ void show_shared_to_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before a product whose registers were written by anything but products.
__device__ __forceinline__ void begin_product() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void commit_product() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most `pending` of the latest groups still run.
template <int pending>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Where the unit finds rows of 64 bf16 values in shared memory: groups of eight rows of 128 bytes,
// 1024 bytes each, the 16 bytes at c of row r lying at c ^ r % 8. A product takes 16 of the 64
// values: those that begin at product * 16. (PTX ISA, matrix descriptor, 128-byte swizzle)
__device__ __forceinline__ uint64_t describe_rows(const void* tile, int product) {
    constexpr uint64_t kGroupBytes = 1024, kSwizzle128 = 1;
    const uint32_t address = shared_address(tile) + product * 32;
    return kSwizzle128 << 62 | (kGroupBytes >> 4) << 32 | uint64_t{1} << 16 | (address >> 4);
}

// Nothing made of this register is made before here. The registers that are a product's left
// operand are its own until it has been waited for, but a compiler that sees their values used for
// the last time gives them to others: what is next made for them must be made after the wait.
__device__ __forceinline__ void hold(uint32_t& value) { asm volatile("" : "+r"(value)::"memory"); }

// Until all have ended. No use of the sums may be moved before that.
template <int count>
__device__ __forceinline__ void finish_products(float (&sums)[count]) {
    wait_for_products<0>();
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

#define GPTOSS_SUMS_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define GPTOSS_SUMS_16(i) \
    GPTOSS_SUMS_4(i), GPTOSS_SUMS_4(i + 4), GPTOSS_SUMS_4(i + 8), GPTOSS_SUMS_4(i + 12)

// Starts sums += a b for 64 x `rows` sums over 16 columns. a and, eight columns of sums at a time,
// the sums are those of mma_bf16, 16 rows a warp; b is rows described as above.
template <int rows>
__device__ __forceinline__ void start_product(float (&sums)[rows / 2], const uint32_t (&a)[4],
                                              uint64_t b) {
    static_assert(rows == 32 || rows == 64 || rows == 96 || rows == 128);
    // clang-format off
    if constexpr (rows == 32)
        asm volatile(
            "{.reg .pred add; setp.eq.u32 add, 0, 0; "
            "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15}, "
            "{%16, %17, %18, %19}, %20, add, 1, 1, 0;}"
            : GPTOSS_SUMS_16(0)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    if constexpr (rows == 64)
        asm volatile(
            "{.reg .pred add; setp.eq.u32 add, 0, 0; "
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, "
            "%24, %25, %26, %27, %28, %29, %30, %31}, "
            "{%32, %33, %34, %35}, %36, add, 1, 1, 0;}"
            : GPTOSS_SUMS_16(0), GPTOSS_SUMS_16(16)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    if constexpr (rows == 96)
        asm volatile(
            "{.reg .pred add; setp.eq.u32 add, 0, 0; "
            "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, "
            "%24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, "
            "%40, %41, %42, %43, %44, %45, %46, %47}, "
            "{%48, %49, %50, %51}, %52, add, 1, 1, 0;}"
            : GPTOSS_SUMS_16(0), GPTOSS_SUMS_16(16), GPTOSS_SUMS_16(32)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    if constexpr (rows == 128)
        asm volatile(
            "{.reg .pred add; setp.eq.u32 add, 0, 0; "
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, "
            "%24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, "
            "%40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, "
            "%56, %57, %58, %59, %60, %61, %62, %63}, "
            "{%64, %65, %66, %67}, %68, add, 1, 1, 0;}"
            : GPTOSS_SUMS_16(0), GPTOSS_SUMS_16(16), GPTOSS_SUMS_16(32), GPTOSS_SUMS_16(48)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    // clang-format on
}

#undef GPTOSS_SUMS_16
#undef GPTOSS_SUMS_4

#endif  // GPTOSS_HAS_WARPGROUPS

}  // namespace gptoss::cuda

#endif

// Every PTX instruction and every conversion the kernels use, wrapped once. The same names are
// defined over ordinary C++ by tests/emulation/ptx.h, so that kernels run without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#ifdef GPTOSS_EMULATED
#include "emulation/ptx.h"
#else

namespace gptoss::cuda {

// This block's dynamic shared memory, aligned to 128 bytes.
__device__ __forceinline__ std::byte* shared_memory() {
    extern __shared__ __align__(128) unsigned char gptoss_shared[];
    return reinterpret_cast<std::byte*>(gptoss_shared);
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 or 4 bytes of weights, which are read once: past the first cache.
__device__ __forceinline__ uint4 load_once_16(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ __forceinline__ uint32_t load_once_4(const void* p) {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

// Brings a line of memory into the second-level cache.
__device__ __forceinline__ void prefetch_l2(const void* p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// Brings that many bytes, of both address and size a multiple of 16, where one thread can ask so.
__device__ __forceinline__ void prefetch_l2(const void* p, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes));
#endif
}

// c += a b of one 16 x 8 tile over 16 columns. a: row g columns 2t, 2t + 1; row g + 8, the same;
// row g columns 2t + 8, 2t + 9; row g + 8, the same. b: rows 2t, 2t + 1, then 2t + 8, 2t + 9, of
// column g. c: row g columns 2t, 2t + 1, then row g + 8. Lane = 4 g + t. (PTX ISA, mma.m16n8k16)
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 tiles of 16-bit values from shared memory: lane l gives the address of row l % 8 of
// tile l / 8 (16 bytes, aligned) and gets columns 2t, 2t + 1 of row g of each.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the transposed tiles: rows 2t, 2t + 1 of column g.
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// 16 bytes from global to shared memory without passing registers; zeros, and nothing read, if
// not valid.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most `pending` of this thread's latest groups are still on their way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Two floats rounded to nearest even; `low` in bits 0 to 15.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

__device__ __forceinline__ float2 unpack_f16(uint32_t pair) {
    float2 out;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
        : "=f"(out.x), "=f"(out.y)
        : "r"(pair));
    return out;
}

// 2^x as exp2f has it, but 0 where that is below 2^-126: one instruction.
__device__ __forceinline__ float power_of_two(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// Two bf16 products, subnormal operands and results included.
__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(0x80008000u));
    return out;
}

// a - b of pairs.
__device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b) {
    uint32_t out;  // sm_80 has no sub.bf16x2
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(b), "r"(0xbf80bf80u), "r"(a));
    return out;
}

__device__ __forceinline__ uint32_t subtract_f16(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}

__device__ __forceinline__ uint32_t multiply_f16(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}

// Four fp8 (E4M3) as two pairs of float16, exactly; a NaN stays one.
#if __CUDA_ARCH__ >= 890
__device__ __forceinline__ uint2 unpack_fp8(uint32_t four) {
    uint2 out;
    asm("{.reg .b16 a, b; mov.b32 {a, b}, %2;"
        " cvt.rn.f16x2.e4m3x2 %0, a; cvt.rn.f16x2.e4m3x2 %1, b;}"
        : "=r"(out.x), "=r"(out.y)
        : "r"(four));
    return out;
}
#endif

// Adds one to a counter in global memory and returns what it was. What a block wrote before a
// barrier before this is visible to all of a block that sees it here and has a barrier next:
// release and acquire, where two of __threadfence would order more and wait longer.
__device__ __forceinline__ unsigned count_arrival(unsigned* counter) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(__cvta_generic_to_global(counter))
                 : "memory");
    return before;
}

// What follows from x is computed again where it is used: nothing of it stays in registers.
template <class T>
__device__ __forceinline__ void forget(T& x) {
    asm volatile("" : "+r"(x));
}

// Before the first read of what an earlier kernel of the stream wrote; a kernel that may start
// early (programmatic dependent launch) does what needs none of it first.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may start; it still waits, where it must, for all that this one writes.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace gptoss::cuda

#endif

// The most likely tokens of the raw logits, sorted.
#pragma once

#include "backend/cuda/sample.cuh"

namespace gptoss::cuda::sampling {

// In shared memory.
struct TopSpace {
    Integer sorted[kMostTopLogprobs];  // order of the logit in the upper half, then token
    unsigned found;
};

// Bitonic (Batcher 1968); `count` a power of two.
__device__ __forceinline__ void sort(Integer* values, int count) {
    for (int run = 2; run <= count; run *= 2)
        for (int apart = run / 2; apart > 0; apart /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < count / 2; pair += kThreads) {
                const int low = pair / apart * 2 * apart + pair % apart, high = low + apart;
                const bool rising = (low & run) == 0;
                const Integer a = values[low], b = values[high];
                if ((a > b) == rising) {
                    values[low] = b;
                    values[high] = a;
                }
            }
        }
    __syncthreads();
}

// The tokens within the cut, in order.
__device__ __forceinline__ void write_top(const Values& v, const Members& members, const Cut& cut,
                                          double total, int wanted, TopLogprob* out,
                                          TopSpace& space) {
    int size = 1;
    while (size < wanted) size *= 2;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kThreads) space.sorted[i] = ~Integer{0};
    if (threadIdx.x == 0) space.found = 0;
    __syncthreads();
    members.visit([&](int token) {
        const float x = v.logits[token];
        if (!cut.holds(order_of(x), token)) return;
        const unsigned bits = __float_as_uint(x + 0.0f);  // no -0
        const unsigned order = bits >> 31 ? bits : ~(bits ^ 0x80000000u);
        const unsigned at = atomicAdd(&space.found, 1u);
        if (at < static_cast<unsigned>(size))
            space.sorted[at] = static_cast<Integer>(order) << 32 | static_cast<unsigned>(token);
    });
    sort(space.sorted, size);
    const int count = min(wanted, static_cast<int>(space.found));
    for (int i = threadIdx.x; i < count; i += kThreads) {
        const int token = static_cast<int>(space.sorted[i] & 0xffffffffu);
        out[i] = {token, static_cast<float>(v.logits[token] - total)};
    }
}

}  // namespace gptoss::cuda::sampling

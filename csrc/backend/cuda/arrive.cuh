// How a block learns that it is the last of several to end its part.
#pragma once

#include "backend/cuda/ptx.cuh"

namespace gptoss::cuda {

// True in all threads of the block that is the last of `count` to arrive; what the others wrote
// before is visible to it. The counter goes back to zero.
__device__ __forceinline__ bool arrive_last(unsigned* counter, unsigned count) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        last = count_arrival(counter) == count - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}

}  // namespace gptoss::cuda

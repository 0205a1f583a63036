// Stage embed: a row of the table each. A block a row; bound by latency.
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void embed_kernel(EmbedArgs a) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int named = a.rows[blockIdx.x].token;
    // Where the logits were not finite there is no token; the host will refuse the step.
    const int token = named < 0 ? max(a.chosen[-1 - named].token, 0) : named;
    const size_t from = size_t(token) * a.hidden;
    const auto* table = reinterpret_cast<const uint32_t*>(a.table + from);
    float2* out = reinterpret_cast<float2*>(a.x + size_t(blockIdx.x) * a.hidden);
    for (int i = threadIdx.x; i < a.hidden / 2; i += kThreads) {
        const uint32_t pair = table[i];
        out[i] = make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
    }
}

}  // namespace

void embed(const Device& device, const EmbedArgs& args) {
    launch(device, embed_kernel, dim3(args.tokens), dim3(kThreads), 0, args);
}

}  // namespace gptoss::cuda

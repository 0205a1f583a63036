// Rows of float, normalised or as they are, in the own form that the prefill products take. A block
// a row; bound by latency.
#include "backend/cuda/activations.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;

// x / sqrt(mean(x^2) + eps) * gain (RMSNorm, arXiv 1910.07467); without gain, x.
template <int terms>
__global__ __launch_bounds__(kThreads) void norm_rows_kernel(NormArgs a, std::byte* own) {
    __shared__ float sums[kThreads / kWarp];
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const float* row = a.x + size_t(blockIdx.x) * a.columns;
    float scale = 1;
    if (a.gain) {
        float sum[1] = {0};
        for (int k = 4 * threadIdx.x; k < a.columns; k += 4 * kThreads) {
            const float4 v = *reinterpret_cast<const float4*>(row + k);
            sum[0] = add_squares(sum[0], v);
        }
        block_sum(sum, 1, sums);
        scale = norm_scale(sum[0], a.columns, a.eps);
    }
    std::byte* const out = own + size_t(blockIdx.x) * own_row_bytes<terms>(a.columns);
    for (int k = 2 * threadIdx.x; k < a.columns; k += 2 * kThreads) {
        float2 v = *reinterpret_cast<const float2*>(row + k);
        if (a.gain) {
            const float2 g = *reinterpret_cast<const float2*>(a.gain + k);
            v = scaled(v, scale, g);
        }
        store_terms<terms>(out, a.columns, k, v.x, v.y);
    }
}

__global__ __launch_bounds__(kThreads) void read_rows_kernel(const uint16_t* own, int columns,
                                                             int terms, bool f16, float* out) {
    wait_for_earlier_kernels();
    for (int k = threadIdx.x; k < columns; k += kThreads) {
        float sum = 0;  // smallest first, as it was split
        for (int term = terms - 1; term >= 0; --term) {
            const uint32_t value = own[(size_t(blockIdx.x) * terms + term) * columns + k];
            sum += f16 ? unpack_f16(value).x : __uint_as_float(value << 16);
        }
        out[size_t(blockIdx.x) * columns + k] = sum;
    }
}

}  // namespace

void norm_rows(const Device& device, const NormArgs& args, std::byte* own) {
    const auto kernel =
        args.terms == kFastTerms ? norm_rows_kernel<kFastTerms> : norm_rows_kernel<kExactTerms>;
    launch(device, kernel, dim3(args.rows), dim3(kThreads), 0, args, own);
}

void read_rows(const Device& device, const std::byte* own, int rows, int columns, int terms,
               bool f16, float* out) {
    launch(device, read_rows_kernel, dim3(rows), dim3(kThreads), 0,
           reinterpret_cast<const uint16_t*>(own), columns, terms, f16, out);
}

}  // namespace gptoss::cuda

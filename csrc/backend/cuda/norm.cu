// Rows of float, normalised or as they are, in the prefill form. A block a row; bound by latency.
#include "backend/cuda/prefill_form.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 8;  // columns that a thread writes together

// x / sqrt(mean(x^2) + eps) * gain (RMSNorm, arXiv 1910.07467); without gain, x.
template <class Rows>
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
    std::byte* const out = own + blockIdx.x * Rows::row_bytes(a.columns);
    for (int chunk = threadIdx.x; chunk < a.columns / kChunk; chunk += kThreads) {
        uint32_t parts[kChunk / 2][Rows::terms];
#pragma unroll
        for (int pair = 0; pair < kChunk / 2; ++pair) {
            const int k = Rows::column(chunk, pair);
            float2 v = *reinterpret_cast<const float2*>(row + k);
            if (a.gain) v = scaled(v, scale, *reinterpret_cast<const float2*>(a.gain + k));
            split<Rows::terms>(v.x, v.y, parts[pair]);
        }
#pragma unroll
        for (int term = 0; term < Rows::terms; ++term)
            *reinterpret_cast<uint4*>(out + (size_t(term) * a.columns + chunk * kChunk) * 2) =
                make_uint4(parts[0][term], parts[1][term], parts[2][term], parts[3][term]);
    }
}

template <class Rows, bool f16>
__global__ __launch_bounds__(kThreads) void read_rows_kernel(const uint16_t* own, int columns,
                                                             float* out) {
    wait_for_earlier_kernels();
    for (int k = threadIdx.x; k < columns; k += kThreads) {
        float sum = 0;  // smallest first, as it was split
        for (int term = Rows::terms - 1; term >= 0; --term) {
            const size_t at = (size_t(blockIdx.x) * Rows::terms + term) * columns + Rows::place(k);
            const uint32_t value = own[at];
            sum += f16 ? unpack_f16(value).x : __uint_as_float(value << 16);
        }
        out[size_t(blockIdx.x) * columns + k] = sum;
    }
}

template <class Rows, bool f16>
void read(const Device& device, const std::byte* own, int rows, int columns, float* out) {
    launch(device, read_rows_kernel<Rows, f16>, dim3(rows), dim3(kThreads), 0,
           reinterpret_cast<const uint16_t*>(own), columns, out);
}

}  // namespace

void norm_rows(const Device& device, const NormArgs& args, std::byte* own) {
    with_prefill_form(device, args.precision, [&](auto form) {
        launch(device, norm_rows_kernel<decltype(form)>, dim3(args.rows), dim3(kThreads), 0, args,
               own);
    });
}

void read_rows(const Device& device, Precision precision, Form form, const std::byte* own, int rows,
               int columns, float* out) {
    if (form == Form::kDecode)
        with_terms(precision, [&](auto terms) {
            read<PrefillForm<terms(), false>, true>(device, own, rows, columns, out);
        });
    else
        with_prefill_form(device, precision, [&](auto prefill) {
            read<decltype(prefill), false>(device, own, rows, columns, out);
        });
}

}  // namespace gptoss::cuda

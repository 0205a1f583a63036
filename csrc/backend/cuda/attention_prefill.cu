// The attention stage for prompts, on the matrix units: float16 keys and values (of fp8 as it is
// widened), everything else near float32.
//
// A block takes a tile of consecutive rows of the step for one KV head: 128 pairs of a query and a
// query head, so that the heads that share keys and values read them once. It goes over the keys
// in tiles of 64, aligned to positions, fetched one tile ahead, and stops at the last that a query
// sees; tiles before the window are not read. A warp has 16 of the pairs and weighs 32 keys at a
// time. Queries and weights are sums of two float16 terms each, scaled by powers of two so that
// both terms keep their precision.
//
// A row's bits are its own: what is beyond its keys changes neither its maximum nor its sums. Only
// a value that is not finite could (0 * NaN); results that are not finite are therefore computed
// again query by query, without the keys that the query does not see. The same happens from the
// start to rows that are not consecutive positions of one sequence, run by run.
//
// Bound by the matrix units and the exponentials, about alike.
#include "backend/cuda/attention_terms.cuh"
#include "backend/cuda/attention_tiles.cuh"
#include "backend/cuda/stage_kernels.h"

namespace gptoss::cuda {
namespace prefill_attention {
namespace {

// The flash-attention state of a warp's 16 pairs; lane 4 g + t has parts of pairs g and g + 8.
template <int head_dim>
struct Warp {
    using Shape = Tile<head_dim>;
    static constexpr int kDepths = head_dim / 16;
    static constexpr int kColumns = head_dim / 8;

    // In shared memory after the tiles, since registers are few: the low terms of the scaled
    // queries, each lane's own; of each pair, what products with its query are to be multiplied by.
    static constexpr int kLowPlace = kStages * Shape::kBytes;
    static constexpr int kUnitPlace = kLowPlace + kDepths * kThreads * 16;
    static constexpr int kEnd = kUnitPlace + kTilePairs * 4;

    uint32_t high[kDepths][4];  // of the scaled queries, sixteen dimensions each
    float out[kColumns][4];
    float max[2], sum[2];  // sum: of this lane's weights

    // Where pair g + 8 r has its query and result; negative: there is no such pair in the run.
    static __device__ __forceinline__ int64_t offset(const AttentionArgs& a, const Run& run,
                                                     int r) {
        const int pair = own_pair(r), row = pair / run.kv_group;
        if (row < run.begin || row >= run.end) return -1;
        const int head = int(blockIdx.y) * run.kv_group + pair % run.kv_group;
        return (int64_t(first_row(a) + row) * a.heads + head) * head_dim;
    }

    static __device__ __forceinline__ int own_pair(int r) {
        return threadIdx.x / kWarp * kWarpPairs + 8 * r + threadIdx.x % kWarp / 4;
    }

    __device__ __forceinline__ void begin(const AttentionArgs& a, const Run& run) {
        const int lane = threadIdx.x % kWarp;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            max[r] = kLowest;
            sum[r] = 0;
            const int64_t at = offset(a, run, r);
            load_query(r, lane, at < 0 ? nullptr : a.q + at);
        }
#pragma unroll
        for (int n = 0; n < kColumns; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0;
    }

    __device__ __forceinline__ void load_query(int r, int lane, const float* query) {
        float2 q[2 * kDepths];
        float top = 0;
#pragma unroll
        for (int i = 0; i < 2 * kDepths; ++i) {
            q[i] = make_float2(0, 0);
            if (query) q[i] = *reinterpret_cast<const float2*>(query + 8 * i + lane % 4 * 2);
            q[i].x *= kScoreScale<head_dim>;
            q[i].y *= kScoreScale<head_dim>;
            top = fmaxf(top, fmaxf(fabsf(q[i].x), fabsf(q[i].y)));
        }
        const QueryScale by(top);
        if (lane % 4 == 0) unit(r) = by.inverse;
#pragma unroll
        for (int i = 0; i < 2 * kDepths; ++i) {
            const int d = i / 2, place = i % 2 * 2 + r;
            split_f16(q[i].x * by.scale, q[i].y * by.scale, high[d][place], low_term(d)[place]);
        }
    }

    static __device__ __forceinline__ uint32_t* low_term(int depth) {
        std::byte* all = shared_memory() + kLowPlace;
        return reinterpret_cast<uint32_t*>(all + (depth * kThreads + threadIdx.x) * 16);
    }

    static __device__ __forceinline__ float& unit(int r) {
        return reinterpret_cast<float*>(shared_memory() + kUnitPlace)[own_pair(r)];
    }

    // Keys [start, start + kStepKeys), which are in shared memory from `keys` on.
    __device__ __forceinline__ void add(const Run& run, unsigned keys, int start, int window) {
        // None of them may be for any query of the warp.
        const Span queries = run.warps[threadIdx.x / kWarp];
        if (queries.last < queries.first || start > queries.last) return;
        if (window && start + kStepKeys + window <= queries.first + 1) return;
        float score[kStepKeys / 8][4];
        multiply_keys(keys, score);
        if (start + kStepKeys - 1 > queries.first || (window && start <= queries.last - window))
            hide(run, score, start, window);
        weigh(score);
        add_values(keys + Tile<head_dim>::kHalfBytes, score);
    }

    __device__ __forceinline__ void multiply_keys(unsigned keys, float (&score)[kStepKeys / 8][4]) {
        const unsigned lane = threadIdx.x % kWarp;
        const unsigned own = keys + Shape::at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int n = 0; n < kStepKeys / 8; ++n)
            score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0;
#pragma unroll
        for (int d = 0; d < kDepths; ++d) {
            const uint4 term = *reinterpret_cast<const uint4*>(low_term(d));
            const uint32_t low[4] = {term.x, term.y, term.z, term.w};
#pragma unroll
            for (int n = 0; n < kStepKeys / 8; n += 2) {
                uint32_t b[4];
                load_matrix_x4(b, shared_memory() + (own ^ 32 * d) + 8 * n * Shape::kRowBytes);
                mma_f16(score[n], low, b[0], b[1]);
                mma_f16(score[n + 1], low, b[2], b[3]);
                mma_f16(score[n], high[d], b[0], b[1]);
                mma_f16(score[n + 1], high[d], b[2], b[3]);
            }
        }
    }

    __device__ __forceinline__ void hide(const Run& run, float (&score)[kStepKeys / 8][4],
                                         int start, int window) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int position = run.position_of(own_pair(r) / run.kv_group);
            const int ago = position - start - threadIdx.x % 4 * 2;
#pragma unroll
            for (int n = 0; n < kStepKeys / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int distance = ago - 8 * n - i;
                    if (distance < 0 || (window && distance >= window))
                        score[n][2 * r + i] = hidden_score();
                }
            }
        }
    }

    // Scores to weights, and what is there already relative to the new maxima.
    __device__ __forceinline__ void weigh(float (&score)[kStepKeys / 8][4]) {
        float scale[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float top = fmaxf(score[0][2 * r], score[0][2 * r + 1]);
#pragma unroll
            for (int n = 1; n < kStepKeys / 8; ++n)
                top = fmaxf(top, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
            top = fmaxf(max[r], row_max(top) * unit(r));
            scale[r] = power_of_two(max[r] - top);
            max[r] = top;
            sum[r] *= scale[r];
        }
        if (__any_sync(kAllLanes, scale[0] != 1 || scale[1] != 1)) {
#pragma unroll
            for (int n = 0; n < kColumns; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) out[n][i] *= scale[i / 2];
            }
        }
        const float units[2] = {unit(0), unit(1)};
#pragma unroll
        for (int n = 0; n < kStepKeys / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float exponent = fmaf(score[n][i], units[i / 2], -max[i / 2]);
                score[n][i] = power_of_two(exponent) * kMostWeight;
                sum[i / 2] += score[n][i];
            }
        }
    }

    __device__ __forceinline__ void add_values(unsigned values,
                                               const float (&weight)[kStepKeys / 8][4]) {
        const unsigned lane = threadIdx.x % kWarp;
        const unsigned own = values + Shape::at(lane % 16, lane / 16);
#pragma unroll
        for (int k = 0; k < kStepKeys / 16; ++k) {
            uint32_t w_high[4], w_low[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float (&from)[4] = weight[2 * k + i / 2];
                split_f16(from[i % 2 * 2], from[i % 2 * 2 + 1], w_high[i], w_low[i]);
            }
#pragma unroll
            for (int n = 0; n < kColumns; n += 2) {
                uint32_t b[4];
                load_matrix_x4_transposed(
                    b, shared_memory() + (own ^ 16 * n) + 16 * k * Shape::kRowBytes);
                mma_f16(out[n], w_low, b[0], b[1]);
                mma_f16(out[n + 1], w_low, b[2], b[3]);
                mma_f16(out[n], w_high, b[0], b[1]);
                mma_f16(out[n + 1], w_high, b[2], b[3]);
            }
        }
    }

    // The sink, the division, the results; whether all are finite.
    __device__ __forceinline__ bool finish(const AttentionArgs& a, const Run& run) {
        const int lane = threadIdx.x % kWarp;
        bool finite = true;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 1);
            sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 2);
            const int64_t at = offset(a, run, r);
            if (at < 0) continue;
            const int head = int(blockIdx.y) * run.kv_group + own_pair(r) % run.kv_group;
            const float sink = a.sinks[head] * kLog2E;
            const float all = fmaxf(max[r], sink);
            const float factor = exp2f(max[r] - all);
            const float share = factor / fmaf(factor, sum[r], kMostWeight * exp2f(sink - all));
#pragma unroll
            for (int n = 0; n < kColumns; ++n) {
                // A zero's sign depends on keys that are not seen: + 0 makes it positive.
                const float x = out[n][2 * r] * share + 0.0f;
                const float y = out[n][2 * r + 1] * share + 0.0f;
                finite = finite && x - x == 0 && y - y == 0;
                *reinterpret_cast<float2*>(a.out + at + 8 * n + lane % 4 * 2) = make_float2(x, y);
            }
        }
        return finite;
    }
};

// One run's rows; whether all of this thread's results are finite.
template <class T, int head_dim>
__device__ __forceinline__ bool attend(const AttentionArgs& a, const Run& run, Source* sources) {
    constexpr unsigned kTileBytes = Tile<head_dim>::kBytes;
    fetch_tile<T, head_dim>(a, run, sources[0], 0);
    if (threadIdx.x == 0) advance<T, head_dim>(a, run, sources[0], sources[1]);
    Warp<head_dim> warp;
    warp.begin(a, run);
    for (unsigned stage = 0;; stage ^= 1) {
        copy_async_wait<0>();
        widen_tile<T, head_dim>(stage * kTileBytes);
        __syncthreads();  // the tile is there, and no warp uses the other any more
        const Source& next = sources[1 - stage];
        if (next.start - kTileKeys > run.keys.last) break;
        fetch_tile<T, head_dim>(a, run, next, (1 - stage) * kTileBytes);
        if (threadIdx.x == 0) advance<T, head_dim>(a, run, next, sources[stage]);
#pragma unroll 1
        for (int key = 0; key < kTileKeys; key += kStepKeys)
            warp.add(run, stage * kTileBytes + key * Tile<head_dim>::kRowBytes,
                     next.start - kTileKeys + key, a.kv.window);
    }
    return warp.finish(a, run);
}

template <class T, int head_dim>
__global__ void __launch_bounds__(kThreads, 2) attention_prefill_kernel(AttentionArgs a) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    Desk& desk = *reinterpret_cast<Desk*>(shared_memory() + Warp<head_dim>::kEnd);
    if (threadIdx.x == 0) desk.next_row = desk.one_by_one = 0;
    __syncthreads();
    while (desk.next_row < row_count(a)) {
        __syncthreads();
        if (threadIdx.x < kWarp) take_run<T, head_dim>(a, desk);
        __syncthreads();
        const bool finite = attend<T, head_dim>(a, desk.run, desk.sources);
        const bool again = __syncthreads_or(!finite) && desk.run.end - desk.run.begin > 1;
        if (!again) continue;
        if (threadIdx.x == 0) {
            desk.one_by_one = desk.run.end;
            desk.next_row = desk.run.begin;
        }
        __syncthreads();
    }
}

template <class T, int head_dim>
void launch_prefill(const Device& device, const AttentionArgs& args) {
    const int rows = kTilePairs / (args.heads / args.kv_heads);
    const dim3 grid((args.tokens + rows - 1) / rows, args.kv_heads);
    launch(device, attention_prefill_kernel<T, head_dim>, grid, dim3(kThreads),
           Warp<head_dim>::kEnd + sizeof(Desk), args);
}

template <class T>
void launch_prefill(const Device& device, const AttentionArgs& args) {
    (args.head_dim == 64 ? launch_prefill<T, 64> : launch_prefill<T, 32>)(device, args);
}

}  // namespace
}  // namespace prefill_attention

void attention_prefill(const Device& device, const AttentionArgs& args) {
    using namespace prefill_attention;
    if (args.tokens == 0) return;
    (args.kv.type == DType::kFp8 ? launch_prefill<fp8> : launch_prefill<f16>)(device, args);
}

}  // namespace gptoss::cuda

// Cases of barriers, warp collectives, atomics and the order of threads.
#include <chrono>

#include "emulation/checks.h"

using namespace checks;

namespace {

constexpr unsigned kAll = ~0u;

// Row i of 32 lanes: the i-th collective of the input's 32 values.
__global__ void every_collective(const int* in, int* out) {
    const int lane = static_cast<int>(threadIdx.x), v = in[lane];
    int row = 0;
    const auto put = [&](auto value) { out[32 * row++ + lane] = static_cast<int>(value); };
    put(__shfl_sync(kAll, v, 7));
    put(__shfl_sync(kAll, v, lane * 5, 8));
    put(__shfl_xor_sync(kAll, v, 16));
    put(__shfl_xor_sync(kAll, v, 8, 8));
    put(__shfl_up_sync(kAll, v, 3));
    put(__shfl_up_sync(kAll, v, 2, 4));
    put(__shfl_down_sync(kAll, v, 9));
    put(__shfl_down_sync(kAll, v, 1, 2));
    put(__shfl_sync(kAll, (long long){v} << 32, 31 - lane) >> 32);
    put(__shfl_xor_sync(kAll, static_cast<double>(v), 1));
    put(__ballot_sync(kAll, v & 1));
    put(__any_sync(kAll, v == in[13]));
    put(__all_sync(kAll, v != in[13]));
    put(__match_any_sync(kAll, v & 3));
    put(__reduce_add_sync(kAll, v));
    put(__reduce_max_sync(kAll, v));
    put(__reduce_min_sync(kAll, v));
    put(__reduce_max_sync(kAll, static_cast<unsigned>(v)));
    put(__reduce_min_sync(kAll, static_cast<unsigned>(v)));
    // Two halves that meet at different times.
    const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
    if (lane < 16) __syncwarp(half);
    put(__reduce_add_sync(half, v));
    put(__ballot_sync(half, v & 1));
}

__global__ void block_votes(const int* in, int* out) {
    const int i = static_cast<int>(threadIdx.x + blockDim.x * threadIdx.y);
    const int any = __syncthreads_or(in[i]), all = __syncthreads_and(in[i]);
    const int count = __syncthreads_count(in[i]);
    out[3 * i] = any;
    out[3 * i + 1] = all;
    out[3 * i + 2] = count;
}

// The block's sum by halving; without the barriers it depends on who runs first.
template <bool synchronised>
__global__ void sum_block(const int* in, int* out) {
    auto* shared = reinterpret_cast<int*>(gptoss::cuda::shared_memory());
    const unsigned i = threadIdx.x;
    shared[i] = in[i];
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (synchronised)
            __syncthreads();
        else if (half % 2 == 0)
            __syncwarp();
        if (i < half) shared[i] += shared[i + half];
    }
    if (i == 0) *out = shared[0];
}

__global__ void count_all(unsigned* n, float* f, unsigned long long* most, int* least,
                          unsigned* bits) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(n, 1u);
    atomicAdd(f, 0.5f);
    atomicMax(most, (i + 1ull) << 32);
    atomicMin(least, -static_cast<int>(i));
    atomicOr(bits, 1u << i % 32);
    if (atomicCAS(n + 1, 7u, i) == 7u) atomicExch(n + 2, i);
    atomicInc(n + 3, 4u);
}

// Which thread and block came when.
__global__ void note_order(unsigned* next, unsigned* order) {
    order[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

__global__ void barrier_of_some() {
    if (threadIdx.x < 32) __syncthreads();
}
__global__ void two_barriers() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
__global__ void two_shuffles(int* out) {
    if (threadIdx.x < 16)
        *out = __shfl_sync(kAll, 1, 0);
    else
        *out = __shfl_xor_sync(kAll, 1, 1);
}
__global__ void shuffle_of_some(int* out) {
    if (threadIdx.x < 16) *out = __shfl_sync(kAll, 1, 0);
}
__global__ void mask_without_self(int* out) { *out = __shfl_sync(1u, 1, 0); }
__global__ void throws() { throw 1; }

__global__ void only_barriers(int count) {
    for (int i = 0; i < count; ++i) __syncthreads();
}
__global__ void nothing() {}
__global__ void only_shuffles(int count, float* out) {
    float v = static_cast<float>(threadIdx.x);
    for (int i = 0; i < count; ++i) v += __shfl_xor_sync(kAll, v, 1 << i % 5);
    out[threadIdx.x] = v;
}
__global__ void only_products(int count, float* out) {
    float c[4] = {};
    const uint32_t a[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
    for (int i = 0; i < count; ++i) gptoss::cuda::mma_bf16(c, a, 0x3f803f80u, 0x3f803f80u);
    out[threadIdx.x] = c[0];
}

template <class F>
double nanoseconds(F f) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin)
        .count();
}

CASE(collectives) {
    const OnDevice<int> in(input<int>()), out(32 * 21);
    run(every_collective, 1, 32, 0, in.data(), out.data());
    output(out.read());
}

CASE(votes) {
    const OnDevice<int> in(input<int>()), out(3 * 75);
    run(block_votes, 1, dim3(25, 3), 0, in.data(), out.data());
    output(out.read());
}

CASE(sum) {
    const OnDevice<int> in(input<int>()), out(1);
    run(sum_block<true>, 1, 256, 1024, in.data(), out.data());
    output(out.read());
}

CASE(racy_sum) {
    const OnDevice<int> in(input<int>()), out(1);
    run(sum_block<false>, 1, 256, 1024, in.data(), out.data());
    output(out.read());
}

CASE(atomics) {
    const OnDevice<unsigned> n(std::vector<unsigned>{0, 7, 999, 0});
    const OnDevice<float> f(std::vector<float>{0});
    const OnDevice<unsigned long long> most(std::vector<unsigned long long>{0});
    const OnDevice<int> least(std::vector<int>{0});
    const OnDevice<unsigned> bits(std::vector<unsigned>{0});
    run(count_all, 5, 40, 0, n.data(), f.data(), most.data(), least.data(), bits.data());
    const auto counts = n.read();
    std::printf("%u %d %u %g %llx %d %x\n", counts[0], counts[1] == counts[2], counts[3],
                f.read()[0], most.read()[0], least.read()[0], bits.read()[0]);
}

CASE(order) {
    const OnDevice<unsigned> next(std::vector<unsigned>{0}), order(4 * 64);
    run(note_order, 4, 64, 0, next.data(), order.data());
    output(order.read());
}

CASE(some_wait) { run(barrier_of_some, 2, 64, 0); }
CASE(different_barriers) { run(two_barriers, 1, 64, 0); }
CASE(different_shuffles) { run(two_shuffles, 1, 32, 0, OnDevice<int>(1).data()); }
CASE(some_shuffle) { run(shuffle_of_some, 1, 32, 0, OnDevice<int>(1).data()); }
CASE(wrong_mask) { run(mask_without_self, 1, 32, 0, OnDevice<int>(1).data()); }
CASE(exception) { run(throws, 1, 32, 0); }

CASE(speed) {
    const OnDevice<float> out(1024);
    for (unsigned threads : {32u, 128u, 256u, 1024u}) {
        constexpr int kCount = 1000;
        const double each = kCount * static_cast<double>(threads);
        const double barrier = nanoseconds([&] { run(only_barriers, 1, threads, 0, kCount); });
        const double shuffle =
            nanoseconds([&] { run(only_shuffles, 1, threads, 0, kCount, out.data()); });
        const double product =
            nanoseconds([&] { run(only_products, 1, threads, 0, kCount, out.data()); });
        const double block = nanoseconds([&] { run(nothing, kCount, threads, 0); });
        std::printf(
            "%u threads: barrier %.1f, shuffle %.1f, mma %.1f, start and end %.1f ns each\n",
            threads, barrier / each, shuffle / each, product / each, block / each);
    }
}

}  // namespace

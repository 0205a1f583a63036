// What the kernels of the sample stage share: how a row is split, its values, their weights as
// integers, and sums over a block.
#pragma once

#include <limits>

#include "backend/cuda/ptx.cuh"
#include "backend/stages.h"

namespace gptoss::cuda::sampling {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreadTokens = 8;  // of a tile: loads on their way at once
constexpr int kTile = kThreads * kThreadTokens;
constexpr int kMostChunks = 128;  // a thread each when they are merged
constexpr int kBins = 1024;       // a few hundred of 201,088 tokens in the fullest of usual logits
constexpr int kListed = 8192;     // tokens of the bins that a cut goes through
constexpr int kNoToken = std::numeric_limits<int>::max();
constexpr double kLog2E = 1.4426950408889634;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Integer = unsigned long long;  // the 64 bits that atomics take

// What is chosen from: the adjusted logits, or the logits as they are.
enum Question { kChoice, kTopLogprobs, kQuestions };

// A row is cut in chunks of whole tiles, a block each, by its length alone.
struct Split {
    int vocab, chunks, chunk_tiles;
    int weight_bits;  // of the best token's weight; those of a whole row sum to at most 2^63
};

// Over values; `best` belongs to `token`, the lowest of equals.
struct Extremes {
    double best = -kInfinity, least = kInfinity;
    float raw_best = -std::numeric_limits<float>::infinity();
    float raw_least = std::numeric_limits<float>::infinity();
    int token = kNoToken;
    int finite = 1;
};

struct Summary {
    Extremes extremes;
    double sum;  // of exp(logit - raw_best)
};

// Tokens up to a place in the order of likelihood.
struct Cut {
    Integer order = ~Integer{0};
    int token = kNoToken;

    __device__ __forceinline__ bool holds(Integer other, int other_token) const {
        return other < order || (other == order && other_token <= token);
    }
};

// One question's candidates by bin, and what its blocks count. Zero before the second kernel.
struct Histogram {
    Integer weight[kBins];
    unsigned count[kBins];
    unsigned listed, gathered_blocks, summed_blocks;
};

struct SampleScratch {
    double* adjusted;       // [outputs, vocab]   of rows that changes_values() is of
    Summary* summary;       // [outputs, chunks]
    Integer* chunk_weight;  // [outputs, chunks]   of the tokens left
    Histogram* histogram;   // [outputs, kQuestions]
    int* listed;            // [outputs, kQuestions, kListed]
    Cut* cut;               // [outputs]   of kChoice
};

// What is chosen from is not the logits as they are. Tokens that may not be chosen are infinitely
// far below the best: they weigh nothing.
__device__ __forceinline__ bool changes_values(const SampleRow& row) {
    return row.biases > 0 || row.seen_tokens > 0 || row.mask;
}

// Falls as the value rises: the likeliest token has the lowest.
__device__ __forceinline__ Integer order_of(double z) {
    const Integer bits = static_cast<Integer>(__double_as_longlong(z + 0.0));  // no -0
    const Integer sign = Integer{1} << 63;
    return bits & sign ? bits : ~(bits ^ sign);
}

// A row's values and what they weigh: 2^(weight_bits - (best - z) scale), cut off below 1.
struct Values {
    const float* logits;
    const double* adjusted;  // null: the logits
    double best;
    double scale;      // log2(e) / temperature
    double bin_scale;  // bins for each unit below the best
    int weight_bits;

    __device__ __forceinline__ double at(int token) const {
        return adjusted ? adjusted[token] : static_cast<double>(logits[token]);
    }

    __device__ __forceinline__ double halvings(double z) const {
        const double below = best - z;
        return below > 0 ? below * scale : 0;
    }

    // To the precision of float32: a part in 10^7 of a probability.
    __device__ __forceinline__ Integer weight(double z) const {
        const double half = halvings(z);
        if (!(half < weight_bits)) return 0;
        const int whole = static_cast<int>(half);
        const float part = exp2f(static_cast<float>(whole - half));
        return static_cast<Integer>(part * 0x1p24f) << (weight_bits - 24) >> whole;
    }

    __device__ __forceinline__ int bin(double z) const {
        const double below = best - z;
        return below > 0 ? static_cast<int>(fmin(below * bin_scale, kBins - 1.0)) : 0;
    }
};

__device__ __forceinline__ Values values_of(const SampleArgs& a, const SampleScratch& s,
                                            const Split& split, int question, const Extremes& e) {
    const size_t row = blockIdx.y;
    const SampleRow& wanted = a.row[row];
    Values v;
    const bool changed = question == kChoice && changes_values(wanted);
    v.logits = a.logits + row * split.vocab;
    v.adjusted = changed ? s.adjusted + row * split.vocab : nullptr;
    v.best = question == kChoice ? e.best : e.raw_best;
    v.weight_bits = split.weight_bits;
    // For the most likely tokens any may count, and by number alone.
    v.scale = question == kChoice ? kLog2E / wanted.parameters.temperature : 0;
    const double least = question == kChoice ? e.least : e.raw_least;
    const double range = fmin(v.best - least, v.weight_bits / v.scale);
    v.bin_scale = range > 1e-300 ? kBins / range : 0;
    return v;
}

// Sums and extremes over a block. The tree is fixed, and so are the bits.

__device__ __forceinline__ Extremes merge(const Extremes& a, const Extremes& b) {
    const bool second = b.best > a.best || (b.best == a.best && b.token < a.token);
    Extremes out;
    out.best = second ? b.best : a.best;
    out.token = second ? b.token : a.token;
    out.least = fmin(a.least, b.least);
    out.raw_best = fmaxf(a.raw_best, b.raw_best);
    out.raw_least = fminf(a.raw_least, b.raw_least);
    out.finite = a.finite & b.finite;
    return out;
}
__device__ __forceinline__ double merge(double a, double b) { return a + b; }
__device__ __forceinline__ Integer merge(Integer a, Integer b) { return a + b; }

template <class T>
__device__ __forceinline__ T from_lane(T mine, int lanes) {
    return __shfl_xor_sync(kAllLanes, mine, lanes);
}
__device__ __forceinline__ Extremes from_lane(const Extremes& mine, int lanes) {
    Extremes other;
    other.best = from_lane(mine.best, lanes);
    other.least = from_lane(mine.least, lanes);
    other.raw_best = from_lane(mine.raw_best, lanes);
    other.raw_least = from_lane(mine.raw_least, lanes);
    other.token = from_lane(mine.token, lanes);
    other.finite = from_lane(mine.finite, lanes);
    return other;
}

constexpr size_t kSpaceBytes = kWarps * sizeof(Extremes);  // at the start of shared memory

// To every thread.
template <class T>
__device__ __forceinline__ T over_block(T mine) {
    T* const space = reinterpret_cast<T*>(shared_memory());
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) mine = merge(mine, from_lane(mine, lanes));
    __syncthreads();
    if (threadIdx.x % kWarp == 0) space[threadIdx.x / kWarp] = mine;
    __syncthreads();
    T all = space[0];
    for (int warp = 1; warp < kWarps; ++warp) all = merge(all, space[warp]);
    return all;
}

struct Prefix {
    Integer before, total;
};

// What the threads before this one have, and all.
__device__ __forceinline__ Prefix scan_block(Integer mine) {
    Integer* const space = reinterpret_cast<Integer*>(shared_memory());
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    Integer held = mine;
    for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const Integer below = __shfl_up_sync(kAllLanes, held, lanes);
        if (lane >= lanes) held += below;
    }
    __syncthreads();
    if (lane == kWarp - 1) space[warp] = held;
    __syncthreads();
    Prefix out = {held - mine, 0};
    for (int w = 0; w < kWarps; ++w) {
        if (w < warp) out.before += space[w];
        out.total += space[w];
    }
    return out;
}

// Of the whole row, from its chunks.
__device__ __forceinline__ Extremes merge_chunks(const Summary* summary, const Split& split) {
    Extremes mine;
    if (static_cast<int>(threadIdx.x) < split.chunks) mine = summary[threadIdx.x].extremes;
    return over_block(mine);
}

// The logarithm of the sum of exp(logit).
__device__ __forceinline__ double log_total(const Summary* summary, const Split& split,
                                            float raw_best) {
    double mine = 0;
    if (static_cast<int>(threadIdx.x) < split.chunks) {
        const Summary chunk = summary[threadIdx.x];
        mine = chunk.sum * exp(static_cast<double>(chunk.extremes.raw_best) - raw_best);
    }
    return raw_best + log(over_block(mine));
}

// Calls visit(token, value, exists) for this block's chunk, by whole warps.
template <class Visit>
__device__ __forceinline__ void visit_chunk(const Values& v, const Split& split, Visit visit) {
    const int first = blockIdx.x * split.chunk_tiles;
    for (int tile = first; tile < first + split.chunk_tiles && tile * kTile < split.vocab; ++tile) {
        double z[kThreadTokens];
        const int own = tile * kTile + threadIdx.x;
#pragma unroll
        for (int i = 0; i < kThreadTokens; ++i)
            z[i] = own + i * kThreads < split.vocab ? v.at(own + i * kThreads) : 0;
#pragma unroll
        for (int i = 0; i < kThreadTokens; ++i)
            visit(own + i * kThreads, z[i], own + i * kThreads < split.vocab);
    }
}

}  // namespace gptoss::cuda::sampling

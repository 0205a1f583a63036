// The sample stage: a choice for each row of logits, and the most likely tokens.
//
// A token weighs exp((z - best) / temperature), z its adjusted logit in float64: as an integer,
// 2^(weight_bits - halvings), so that sums and running sums are exact whatever the split (weights
// that fall below 1 do not count: of 201,088 tokens, those under 2^-45 of the best). The draw is
// the first token by rising id whose running sum exceeds unit * total. The log-probabilities are of
// the raw logits: x - log(sum of exp(x)).
//
// Four launches, always the same; parameters are read on the device, and blocks without work leave:
//   scan       mask, adjusts, extremes, the sum of exp(x)   all rows
//   histogram  candidates by bins below the best            top_k, top_p, top_logprobs
//   gather     lists the bins a cut goes through; the last block of a row cuts exactly, and sorts
//   draw       sums the tokens left; the last block of a row draws       (greedy: one block)
// A row's chunks, a block each, depend on the vocabulary alone: 99 for 201,088 tokens. A chunk's
// block looks through all biases and tokens seen for its own: a scatter would be a launch more.
//
// Bound by latency: of four launches, and of up to four short passes over logits in the second
// cache.
#include <algorithm>

#include "backend/cuda/arrive.cuh"
#include "backend/cuda/sample_draw.cuh"
#include "backend/cuda/sample_select.cuh"
#include "backend/cuda/sample_top.cuh"
#include "backend/cuda/stage_kernels.h"
#include "base/memory.h"
#include "base/random.h"

namespace gptoss::cuda {
namespace {

using namespace sampling;

// Of a multiprocessor; left to itself, ptxas spills registers to have more.
constexpr int kBlocks = 2;

// Bias, repetition penalty, then presence and frequency penalty, of the tokens of one tile.
__device__ __forceinline__ void adjust_tile(const SampleRow& row, int first, double* z) {
    __syncthreads();
    for (int i = threadIdx.x; i < row.biases; i += kThreads) {
        const TokenBias bias = row.bias[i];
        const unsigned at = static_cast<unsigned>(bias.token - first);
        if (at < kTile) z[at] += bias.bias;
    }
    __syncthreads();
    const SamplingParameters& p = row.parameters;
    for (int i = threadIdx.x; i < row.seen_tokens; i += kThreads) {
        const TokenCount seen = row.seen[i];
        const unsigned at = static_cast<unsigned>(seen.token - first);
        if (at >= kTile) continue;
        double logit = z[at];
        logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
        if (seen.generated > 0) logit -= p.presence_penalty + p.frequency_penalty * seen.generated;
        z[at] = logit;
    }
    __syncthreads();
}

// Bit i: of this thread's tokens of a tile, the i-th may be chosen.
__device__ __forceinline__ unsigned allowed_tokens(const uint32_t* mask, int own, int vocab) {
    if (!mask) return ~0u;
    unsigned out = 0;
#pragma unroll
    for (int i = 0; i < kThreadTokens; ++i) {
        const int token = own + i * kThreads;
        if (token < vocab) out |= (mask[token / 32] >> token % 32 & 1) << i;
    }
    return out;
}

__device__ __forceinline__ void clear(Histogram* histograms) {
    constexpr int kWords = kQuestions * sizeof(Histogram) / sizeof(unsigned);
    unsigned* const words = reinterpret_cast<unsigned*>(histograms);
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < kWords; i += gridDim.x * kThreads)
        words[i] = 0;
}

// [chunks, outputs] blocks.
__global__ __launch_bounds__(kThreads, kBlocks) void scan_kernel(SampleArgs a, SampleScratch s,
                                                                 Split split) {
    double* const z = reinterpret_cast<double*>(shared_memory() + kSpaceBytes);  // [kTile]
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const size_t row = blockIdx.y;
    const SampleRow& wanted = a.row[row];
    const bool adjusts = wanted.biases > 0 || wanted.seen_tokens > 0;
    const bool changes = changes_values(wanted);
    const float* const logits = a.logits + row * split.vocab;
    clear(s.histogram + row * kQuestions);

    Extremes extremes;
    double sum = 0;  // of this thread's tokens, relative to raw_best of all threads so far
    const int first_tile = blockIdx.x * split.chunk_tiles;
    for (int t = first_tile; t < first_tile + split.chunk_tiles && t * kTile < split.vocab; ++t) {
        float x[kThreadTokens];
        const int own = t * kTile + threadIdx.x;
        const float before = extremes.raw_best;
        const unsigned allowed = allowed_tokens(wanted.mask, own, split.vocab);
#pragma unroll
        for (int i = 0; i < kThreadTokens; ++i)
            x[i] = own + i * kThreads < split.vocab ? logits[own + i * kThreads] : 0;
        if (adjusts) {
#pragma unroll
            for (int i = 0; i < kThreadTokens; ++i) z[threadIdx.x + i * kThreads] = x[i];
            adjust_tile(wanted, t * kTile, z);
        }
#pragma unroll
        for (int i = 0; i < kThreadTokens; ++i) {
            const int token = own + i * kThreads;
            if (token >= split.vocab) continue;
            const double value = adjusts ? z[threadIdx.x + i * kThreads] : x[i];
            const bool may = allowed >> i & 1;
            if (changes) s.adjusted[row * split.vocab + token] = may ? value : -kInfinity;
            const int finite = fabsf(x[i]) <= std::numeric_limits<float>::max();
            extremes = merge(extremes, {may ? value : -kInfinity, may ? value : kInfinity, x[i],
                                        x[i], may ? token : kNoToken, finite});
        }
        extremes = over_block(extremes);
        if (t > first_tile) sum *= exp(static_cast<double>(before) - extremes.raw_best);
        float part = 0;
#pragma unroll
        for (int i = 0; i < kThreadTokens; ++i)
            if (own + i * kThreads < split.vocab) part += expf(x[i] - extremes.raw_best);
        sum += part;
    }
    sum = over_block(sum);
    if (threadIdx.x == 0) s.summary[row * split.chunks + blockIdx.x] = {extremes, sum};
}

// [chunks, outputs, kQuestions] blocks.
__global__ __launch_bounds__(kThreads, kBlocks) void histogram_kernel(SampleArgs a, SampleScratch s,
                                                                      Split split) {
    Integer* const weight = reinterpret_cast<Integer*>(shared_memory() + kSpaceBytes);
    unsigned* const count = reinterpret_cast<unsigned*>(weight + kBins);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const size_t row = blockIdx.y;
    const int question = blockIdx.z;
    if (!needs_selection(a.row[row], question)) return;
    const Extremes e = merge_chunks(s.summary + row * split.chunks, split);
    if (!e.finite) return;
    const Values v = values_of(a, s, split, question, e);
    for (int i = threadIdx.x; i < kBins; i += kThreads) weight[i] = count[i] = 0;
    __syncthreads();
    visit_chunk(v, split, [&](int, double z, bool exists) {
        const Integer w = exists ? v.weight(z) : 0;
        if (w == 0) return;
        const int bin = v.bin(z);
        atomicAdd(&weight[bin], w);
        atomicAdd(&count[bin], 1u);
    });
    __syncthreads();
    Histogram& all = s.histogram[row * kQuestions + question];
    for (int i = threadIdx.x; i < kBins; i += kThreads) {
        if (count[i] == 0) continue;
        atomicAdd(&all.weight[i], weight[i]);
        atomicAdd(&all.count[i], count[i]);
    }
}

// Where gather works in shared memory, after the space of sums.
struct GatherSpace {
    Held held;
    NarrowSpace narrow;
    TopSpace top;
};

// [chunks, outputs, kQuestions] blocks.
__global__ __launch_bounds__(kThreads, kBlocks) void gather_kernel(SampleArgs a, SampleScratch s,
                                                                   Split split) {
    GatherSpace& space = *reinterpret_cast<GatherSpace*>(shared_memory() + kSpaceBytes);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const size_t row = blockIdx.y;
    const int question = blockIdx.z;
    const SampleRow& wanted = a.row[row];
    if (!needs_selection(wanted, question)) return;
    const Summary* const summary = s.summary + row * split.chunks;
    const Extremes e = merge_chunks(summary, split);
    if (!e.finite) return;
    const Values v = values_of(a, s, split, question, e);
    Histogram& histogram = s.histogram[row * kQuestions + question];
    int* const listed = s.listed + (row * kQuestions + question) * kListed;
    sum_bins(histogram.weight, histogram.count, space.held);
    const Limits limits = limits_of(wanted, question);
    const Bins bins = find_bins(space.held, limits);

    visit_chunk(v, split, [&](int token, double z, bool exists) {
        bool listing = exists && v.weight(z) > 0;
        if (listing) {
            const int bin = v.bin(z);
            listing = bin == bins.by_count || (bins.lowest <= bin && bin <= bins.highest) ||
                      (question == kTopLogprobs && bin < bins.by_count);
        }
        const unsigned lanes = __ballot_sync(kAllLanes, listing);
        if (lanes == 0) return;
        const int lane = threadIdx.x % kWarp;
        unsigned at = 0;
        if (lane == 0) at = atomicAdd(&histogram.listed, static_cast<unsigned>(__popc(lanes)));
        at = __shfl_sync(kAllLanes, at, 0) + __popc(lanes & ((1u << lane) - 1));
        if (listing && at < kListed) listed[at] = token;
    });
    if (!arrive_last(&histogram.gathered_blocks, gridDim.x)) return;

    const unsigned count = histogram.listed;
    const Members members =
        count <= kListed ? Members{listed, static_cast<int>(count)} : Members{nullptr, split.vocab};
    const Cut cut = select(v, members, space.held, limits, bins, space.narrow);
    if (question == kTopLogprobs)
        write_top(v, members, cut, log_total(summary, split, e.raw_best), wanted.top_logprobs,
                  a.top_logprob + row * kMostTopLogprobs, space.top);
    else if (threadIdx.x == 0)
        s.cut[row] = cut;
}

// [chunks, outputs] blocks.
__global__ __launch_bounds__(kThreads, kBlocks) void draw_kernel(SampleArgs a, SampleScratch s,
                                                                 Split split) {
    Drawn& space = *reinterpret_cast<Drawn*>(shared_memory() + kSpaceBytes);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const size_t row = blockIdx.y;
    const SampleRow& wanted = a.row[row];
    const SamplingParameters& p = wanted.parameters;
    const bool greedy = !(p.temperature > 0);
    if (greedy && blockIdx.x > 0) return;
    const Summary* const summary = s.summary + row * split.chunks;
    const Extremes e = merge_chunks(summary, split);
    if (!e.finite || e.token == kNoToken) {
        if (threadIdx.x == 0 && blockIdx.x == 0) a.chosen[row] = {-1, 0};
        return;
    }
    int token = e.token;
    if (!greedy) {
        Left left = {values_of(a, s, split, kChoice, e), {}, halvings_of(p.min_p)};
        if (needs_selection(wanted, kChoice)) left.cut = s.cut[row];
        Integer sum = 0;
        visit_chunk(left.v, split, [&](int id, double z, bool exists) {
            if (exists) sum += left.weight(id, z);
        });
        sum = over_block(sum);
        Integer* const chunk_weight = s.chunk_weight + row * split.chunks;
        if (threadIdx.x == 0) chunk_weight[blockIdx.x] = sum;
        if (!arrive_last(&s.histogram[row * kQuestions].summed_blocks, gridDim.x)) return;
        const double unit = random_unit(p.seed, wanted.position);
        token = draw(left, split, chunk_weight, unit, e.token, space);
    }
    const double total = log_total(summary, split, e.raw_best);
    if (threadIdx.x == 0) {
        const float logit = a.logits[row * split.vocab + token];
        a.chosen[row] = {token, static_cast<float>(logit - total)};
    }
}

Split split_row(int vocab) {
    const int tiles = (vocab + kTile - 1) / kTile;
    const int chunk_tiles = (tiles + kMostChunks - 1) / kMostChunks;
    int vocab_bits = 1;
    while (vocab >> vocab_bits) ++vocab_bits;
    return {vocab, (tiles + chunk_tiles - 1) / chunk_tiles, chunk_tiles, 63 - vocab_bits};
}

SampleScratch carve(Carver& memory, int outputs, const Split& split) {
    const size_t rows = outputs;
    SampleScratch s;
    s.adjusted = memory.take<double>(rows * split.vocab);
    s.summary = memory.take<Summary>(rows * split.chunks);
    s.chunk_weight = memory.take<Integer>(rows * split.chunks);
    s.histogram = memory.take<Histogram>(rows * kQuestions);
    s.listed = memory.take<int>(rows * kQuestions * kListed);
    s.cut = memory.take<Cut>(rows);
    return s;
}

}  // namespace

size_t sample_scratch_bytes(int outputs, int vocab) {
    Carver counter;
    carve(counter, outputs, split_row(vocab));
    return counter.used();
}

void sample(const Device& device, const SampleArgs& args, std::byte* scratch) {
    const Split split = split_row(args.vocab);
    Carver memory(scratch, SIZE_MAX);
    const SampleScratch s = carve(memory, args.outputs, split);
    const dim3 rows(split.chunks, args.outputs), questions(split.chunks, args.outputs, kQuestions);
    const dim3 block(kThreads);
    constexpr size_t kBinBytes = kBins * (sizeof(Integer) + sizeof(unsigned));
    launch(device, scan_kernel, rows, block, kSpaceBytes + kTile * sizeof(double), args, s, split);
    launch(device, histogram_kernel, questions, block, kSpaceBytes + kBinBytes, args, s, split);
    launch(device, gather_kernel, questions, block, kSpaceBytes + sizeof(GatherSpace), args, s,
           split);
    launch(device, draw_kernel, rows, block, kSpaceBytes + sizeof(Drawn), args, s, split);
}

}  // namespace gptoss::cuda

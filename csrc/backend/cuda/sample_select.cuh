// Exact selection among a row's candidates by likelihood: as many as a number, or as hold a weight.
//
// A histogram over kBins equal steps below the best value says which bins a cut goes through; their
// tokens are listed, and one block narrows the cut down among them (radix select, with the digits
// taken from the range that is left). Should they be more than the list holds, it goes through the
// whole row instead: slow, and the same result. All sums are of integers: no order matters.
#pragma once

#include "backend/cuda/sample.cuh"

namespace gptoss::cuda::sampling {

// How many of the most likely, and what part of those ones' weight.
struct Limits {
    Integer count;
    double weight;
};

__device__ __forceinline__ Limits limits_of(const SampleRow& row, int question) {
    if (question == kTopLogprobs) return {static_cast<Integer>(row.top_logprobs), 1};
    const SamplingParameters& p = row.parameters;
    return {p.top_k > 0 ? static_cast<Integer>(p.top_k) : ~Integer{0}, p.top_p};
}

__device__ __forceinline__ bool needs_selection(const SampleRow& row, int question) {
    if (question == kTopLogprobs) return row.top_logprobs > 0;
    const SamplingParameters& p = row.parameters;
    return p.temperature > 0 && (p.top_k > 0 || p.top_p < 1);
}

// The least weight that is a part of `all`.
__device__ __forceinline__ Integer part_of(Integer all, double part) {
    const Integer least = static_cast<Integer>(ceil(part * static_cast<double>(all)));
    return max(Integer{1}, min(least, all));
}

// The histogram, summed up to each bin and with it. In shared memory.
struct Held {
    Integer weight[kBins];
    Integer count[kBins];
};

__device__ __forceinline__ void sum_bins(const Integer* weight, const unsigned* count, Held& held) {
    constexpr int kOwn = kBins / kThreads;
    const int first = threadIdx.x * kOwn;
    Integer own_weight[kOwn], own_count[kOwn];
    Integer weights = 0, counts = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        own_weight[i] = weights += weight[first + i];
        own_count[i] = counts += count[first + i];
    }
    const Integer weights_before = scan_block(weights).before;
    const Integer counts_before = scan_block(counts).before;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        held.weight[first + i] = weights_before + own_weight[i];
        held.count[first + i] = counts_before + own_count[i];
    }
    __syncthreads();
}

// The first bin that with those before it holds `need`; kBins if none does.
__device__ __forceinline__ int first_bin(const Integer* held, Integer need) {
    int low = 0, high = kBins;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (held[middle] >= need)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

__device__ __forceinline__ Integer before_bin(const Integer* held, int bin) {
    return bin > 0 ? held[bin - 1] : 0;
}

// Where the cuts go through. The weight's part is of what the count leaves, which is known only
// between bounds until the count's bin is looked into.
struct Bins {
    int by_count;         // kBins: no cut
    int lowest, highest;  // of the bins where the weight's cut may lie; lowest above: no cut
};

__device__ __forceinline__ Bins find_bins(const Held& held, const Limits& limits) {
    Bins out = {kBins, 1, 0};
    Integer least = held.weight[kBins - 1], most = least;
    if (limits.count < held.count[kBins - 1]) {
        out.by_count = first_bin(held.count, limits.count);
        least = before_bin(held.weight, out.by_count);
        most = held.weight[out.by_count];
    }
    if (limits.weight < 1) {
        out.lowest = first_bin(held.weight, part_of(least, limits.weight));
        out.highest = first_bin(held.weight, part_of(most, limits.weight));
    }
    return out;
}

// The tokens to look through: those listed, or all.
struct Members {
    const int* listed;  // null: all
    int count;

    template <class Visit>
    __device__ __forceinline__ void visit(Visit visit) const {
        for (int i = threadIdx.x; i < count; i += kThreads) visit(listed ? listed[i] : i);
    }
};

constexpr int kDigits = 256;
static_assert(kDigits == kThreads);

// In shared memory.
struct NarrowSpace {
    Integer sum[kDigits], least[kDigits], greatest[kDigits];
    Integer found_least, found_greatest, found_need;
};

// The value up to which members hold `need`, which becomes what is needed of that value itself.
// quantity(token, value) sets a member's value, at most `greatest`, or is 0.
template <class Quantity>
__device__ __forceinline__ Integer narrow(const Members& members, Integer greatest, Integer& need,
                                          NarrowSpace& space, Quantity quantity) {
    Integer least = 0;
    while (least < greatest) {
        const int bits = 64 - __clzll(static_cast<long long>(greatest - least));
        const int shift = bits > 8 ? bits - 8 : 0;
        const int own = threadIdx.x;
        __syncthreads();
        space.sum[own] = space.greatest[own] = 0;
        space.least[own] = ~Integer{0};
        if (own == 0) {
            space.found_least = space.found_greatest = greatest;
            space.found_need = need;
        }
        __syncthreads();
        members.visit([&](int token) {
            Integer value = 0;
            const Integer amount = quantity(token, value);
            if (amount == 0 || value < least || value > greatest) return;
            const int digit = static_cast<int>((value - least) >> shift);
            atomicAdd(&space.sum[digit], amount);
            atomicMin(&space.least[digit], value);
            atomicMax(&space.greatest[digit], value);
        });
        __syncthreads();
        const Integer sum = space.sum[own];
        const Integer before = scan_block(sum).before;
        if (before < need && need <= before + sum) {
            space.found_least = space.least[own];
            space.found_greatest = space.greatest[own];
            space.found_need = need - before;
        }
        __syncthreads();
        least = space.found_least;
        greatest = space.found_greatest;
        need = space.found_need;
    }
    return greatest;
}

// The cut through one bin of the tokens within `inside`: `need` tokens, or as many as weigh that.
__device__ __forceinline__ Cut cut_bin(const Values& v, const Members& members, int bin,
                                       const Cut& inside, bool by_weight, Integer need,
                                       NarrowSpace& space) {
    const auto quantity = [&](int token, Integer& order) -> Integer {
        const double z = v.at(token);
        const Integer weight = v.weight(z);
        if (weight == 0 || v.bin(z) != bin) return 0;
        order = order_of(z);
        if (!inside.holds(order, token)) return 0;
        return by_weight ? weight : 1;
    };
    Cut cut;
    cut.order = narrow(members, ~Integer{0}, need, space, quantity);
    const auto of_equals = [&](int token, Integer& value) -> Integer {
        Integer order = 0;
        const Integer amount = quantity(token, order);
        value = static_cast<Integer>(token);
        return order == cut.order ? amount : 0;
    };
    cut.token = static_cast<int>(narrow(members, kNoToken, need, space, of_equals));
    return cut;
}

__device__ __forceinline__ Cut select(const Values& v, const Members& members, const Held& held,
                                      const Limits& limits, const Bins& bins, NarrowSpace& space) {
    Cut cut;
    Integer all = held.weight[kBins - 1];
    if (bins.by_count < kBins) {
        const int bin = bins.by_count;
        cut =
            cut_bin(v, members, bin, cut, false, limits.count - before_bin(held.count, bin), space);
        Integer mine = 0;
        members.visit([&](int token) {
            const double z = v.at(token);
            if (v.bin(z) == bin && cut.holds(order_of(z), token)) mine += v.weight(z);
        });
        all = before_bin(held.weight, bin) + over_block(mine);
    }
    if (limits.weight < 1) {
        const Integer need = part_of(all, limits.weight);
        const int bin = first_bin(held.weight, need);
        cut = cut_bin(v, members, bin, cut, true, need - before_bin(held.weight, bin), space);
    }
    return cut;
}

}  // namespace gptoss::cuda::sampling

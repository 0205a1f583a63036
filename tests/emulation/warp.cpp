// What the lanes of a warp get from one another.
#include <algorithm>

#include "emulation/collectives.h"

namespace gptoss::emulation {

namespace {

template <class F>
void for_each_lane(Warp& warp, unsigned lanes, F f) {
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        f(warp.lanes[__builtin_ctz(rest)]);
    }
}

// The value of a lane that takes no part is undefined: all ones, a NaN.
void compute_shuffle(Warp& warp, unsigned lanes) {
    for_each_lane(warp, lanes, [&](Thread& lane) {
        const bool takes_part = (lanes >> lane.argument & 1) != 0;
        lane.result = takes_part ? warp.lanes[lane.argument].operand : ~uint64_t{0};
    });
}

void compute_ballot(Warp& warp, unsigned lanes) {
    uint64_t votes = 0;
    for_each_lane(warp, lanes, [&](Thread& lane) { votes |= lane.operand << lane.lane; });
    for_each_lane(warp, lanes, [&](Thread& lane) { lane.result = votes; });
}

void compute_match(Warp& warp, unsigned lanes) {
    for_each_lane(warp, lanes, [&](Thread& lane) {
        lane.result = 0;
        for_each_lane(warp, lanes, [&](const Thread& other) {
            lane.result |= uint64_t{other.operand == lane.operand} << other.lane;
        });
    });
}

template <class T, class F>
void reduce(Warp& warp, unsigned lanes, F join) {
    T all = from_operand<T>(warp.lanes[__builtin_ctz(lanes)].operand);
    for_each_lane(warp, lanes & (lanes - 1),
                  [&](const Thread& lane) { all = join(all, from_operand<T>(lane.operand)); });
    for_each_lane(warp, lanes, [&](Thread& lane) { lane.result = to_operand(all); });
}

template <class T>
void compute_max(Warp& warp, unsigned lanes) {
    reduce<T>(warp, lanes, [](T a, T b) { return std::max(a, b); });
}

template <class T>
void compute_min(Warp& warp, unsigned lanes) {
    reduce<T>(warp, lanes, [](T a, T b) { return std::min(a, b); });
}

void compute_add(Warp& warp, unsigned lanes) {
    reduce<unsigned>(warp, lanes, [](unsigned a, unsigned b) { return a + b; });
}

void compute_or(Warp& warp, unsigned lanes) {
    reduce<unsigned>(warp, lanes, [](unsigned a, unsigned b) { return a | b; });
}

void compute_and(Warp& warp, unsigned lanes) {
    reduce<unsigned>(warp, lanes, [](unsigned a, unsigned b) { return a & b; });
}

void compute_xor(Warp& warp, unsigned lanes) {
    reduce<unsigned>(warp, lanes, [](unsigned a, unsigned b) { return a ^ b; });
}

}  // namespace

const Collective kSyncThreads{"__syncthreads"}, kSyncThreadsOr{"__syncthreads_or"},
    kSyncThreadsAnd{"__syncthreads_and"}, kSyncThreadsCount{"__syncthreads_count"};
const Collective kSyncWarp{"__syncwarp"};
const Collective kShuffle{"__shfl_sync", compute_shuffle};
const Collective kShuffleXor{"__shfl_xor_sync", compute_shuffle};
const Collective kShuffleUp{"__shfl_up_sync", compute_shuffle};
const Collective kShuffleDown{"__shfl_down_sync", compute_shuffle};
const Collective kBallot{"__ballot_sync", compute_ballot};
const Collective kMatchAny{"__match_any_sync", compute_match};
const Collective kReduceAdd{"__reduce_add_sync", compute_add};
const Collective kReduceMax{"__reduce_max_sync", compute_max<unsigned>};
const Collective kReduceMaxSigned{"__reduce_max_sync", compute_max<int>};
const Collective kReduceMin{"__reduce_min_sync", compute_min<unsigned>};
const Collective kReduceMinSigned{"__reduce_min_sync", compute_min<int>};
const Collective kReduceOr{"__reduce_or_sync", compute_or};
const Collective kReduceAnd{"__reduce_and_sync", compute_and};
const Collective kReduceXor{"__reduce_xor_sync", compute_xor};

}  // namespace gptoss::emulation

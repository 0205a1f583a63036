// The attention stage for single query rows, in float32: decode steps, and all rows of exact
// precision.
//
// A piece of work is (row, KV head, unit): a unit is a part of the keys that the row sees, cut at
// places that the row's position alone decides. A fixed number of blocks takes the pieces in turn;
// how many there are is read from the rows, so that a captured launch serves any position. The
// query heads of a KV head, up to eight at once, share one read of its keys and values.
//
// In a warp, head_dim / 8 lanes hold a key, eight dimensions each. Each thread copies its own
// parts of the keys and values to come to shared memory ahead of their use (nobody else reads
// them). Scores are summed so that each lane ends with the scores of one or two heads; the softmax
// runs over the warp's keys. Warps are merged in order, and so are units, by the block that
// finishes a row's last one; the sink comes in there, once.
//
// A long context is bound by reading keys and values, a short one by the latency of its steps.
#include <algorithm>

#include "backend/cuda/attention.cuh"
#include "backend/cuda/stage_kernels.h"
#include "base/memory.h"

namespace gptoss::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBlocksPerMultiprocessor = 3;  // by registers
constexpr int kGroupHeads = 8;               // query heads that share a read
constexpr int kLaneDims = 8;
constexpr int kLaneValues = kGroupHeads * kLaneDims;
constexpr int kWarpBytes = 8 * 1024;  // keys and values on their way to a warp, or in use

// A unit has at least kUnitKeys keys, below which merging costs more than it saves, and a row at
// most kMostUnits, which times eight KV heads is about one piece for each block of a large GPU.
constexpr int kUnitKeys = 256;
constexpr int kUnitMultiple = 128;  // no warp's block of keys crosses a page
constexpr int kMostUnits = 48;

// Rows of one launch: a lane finds out about each, and scratch is for no more.
constexpr int kLaunchRows = kWarp;

struct Split {
    Span seen;
    int unit_keys, units;
};

__host__ __device__ inline Split split_keys(int position, int window) {
    const Span seen = seen_by(position, window);
    const int keys = seen.last - seen.first + 1;
    const int even = (keys + kMostUnits - 1) / kMostUnits;
    const int rounded = (even + kUnitMultiple - 1) / kUnitMultiple * kUnitMultiple;
    const int unit_keys = rounded > kUnitKeys ? rounded : kUnitKeys;
    return {seen, unit_keys, (keys + unit_keys - 1) / unit_keys};
}

// How a warp shares keys of type T out, and how a thread's part of them stands in shared memory.
template <class T, int head_dim>
struct Shape {
    static constexpr int kLanes = head_dim / kLaneDims;  // that hold one key
    static constexpr int kKeys = kWarp / kLanes;         // held at once
    static constexpr int kPasses = head_dim / 32;  // keys weighed at once: as registers allow
    static constexpr int kBlockKeys = kKeys * kPasses;
    static constexpr int kOwned = kGroupHeads / kLanes;  // heads whose scores a lane holds
    static constexpr int kLoads = sizeof(T) / 2;         // of 16 bytes: eight dimensions
    static constexpr int kBlockLoads = 2 * kLoads * kPasses;
    static constexpr int kStageBytes = kBlockLoads * kWarp * 16;
    static constexpr int kStages = kWarpBytes / kStageBytes;
    static_assert(kUnitMultiple % (kBlockKeys * kWarps) == 0);
};

// What a warp knows after its keys, and a block after its unit: of each head the greatest score,
// the sum of the weights and the weighted values, both relative to that score.
template <int head_dim>
struct Partial {
    float out[kGroupHeads][head_dim];
    float max[kGroupHeads], sum[kGroupHeads];
};

// In a warp's part of shared memory once its keys are done.
struct Merge {
    float weight[kGroupHeads][kMostUnits];
    float total[kGroupHeads];
    int last;
};

template <int head_dim>
struct Scratch {
    unsigned* finished;           // [kLaunchRows, pairs]   units; zero between launches
    Partial<head_dim>* partials;  // [rows, pairs, kMostUnits]
};

// A unit of one row and up to kGroupHeads query heads of one KV head: a pair is a row and these.
struct Piece {
    int begin, end;  // positions
    int row, pair, unit, units;
    int kv_head, first_head, heads;
};

// Adds over the lanes whose numbers differ in the bits from `offset` down to `least`. Of `count`
// values each lane is left with its share, which the highest of those bits halves first.
template <int count, int offset, int least, int size>
__device__ __forceinline__ void scatter_sum(float (&values)[size], int lane) {
    constexpr int half = count / 2;
    const bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < half; ++i) {
        const float give = upper ? values[i] : values[i + half];
        const float keep = upper ? values[i + half] : values[i];
        values[i] = keep + __shfl_xor_sync(kAllLanes, give, offset);
    }
    if constexpr (offset > least) scatter_sum<half, offset / 2, least>(values, lane);
}

__device__ __forceinline__ void read_eight(float (&out)[kLaneDims], const std::byte* staged, f16) {
    const uint4 v = *reinterpret_cast<const uint4*>(staged);
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 two = unpack_f16(pairs[i]);
        out[2 * i] = two.x;
        out[2 * i + 1] = two.y;
    }
}

__device__ __forceinline__ void read_eight(float (&out)[kLaneDims], const std::byte* staged,
                                           float) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float4 v = *reinterpret_cast<const float4*>(staged + i * kWarp * 16);
        out[4 * i] = v.x;
        out[4 * i + 1] = v.y;
        out[4 * i + 2] = v.z;
        out[4 * i + 3] = v.w;
    }
}

// A warp's softmax over its keys so far. A lane has eight dimensions of its own keys' weighted
// values for all heads, and the state of the heads whose scores it holds.
template <class T, int head_dim>
struct Softmax {
    using S = Shape<T, head_dim>;

    float q[kLaneValues], out[kLaneValues];  // [head][dimension]
    float max[S::kOwned], sum[S::kOwned];

    __device__ __forceinline__ void begin(const AttentionArgs& a, const Piece& piece, int lane) {
        const size_t head = size_t(piece.row) * a.heads + piece.first_head;
        const float* from = a.q + head * head_dim + lane % S::kLanes * kLaneDims;
#pragma unroll
        for (int i = 0; i < kLaneValues; i += 4) {
            const int h = i / kLaneDims;
            float4 v = make_float4(0, 0, 0, 0);
            if (h < piece.heads)
                v = *reinterpret_cast<const float4*>(from + h * head_dim + i % kLaneDims);
            q[i] = v.x * kScoreScale<head_dim>;
            q[i + 1] = v.y * kScoreScale<head_dim>;
            q[i + 2] = v.z * kScoreScale<head_dim>;
            q[i + 3] = v.w * kScoreScale<head_dim>;
            out[i] = out[i + 1] = out[i + 2] = out[i + 3] = 0;
        }
#pragma unroll
        for (int r = 0; r < S::kOwned; ++r) {
            max[r] = kLowest;
            sum[r] = 0;
        }
    }

    // A block of keys and values; only the first `keys` of them are the row's.
    __device__ __forceinline__ void add(const std::byte* staged, int keys, int lane) {
        float score[S::kPasses][S::kOwned];
#pragma unroll
        for (int p = 0; p < S::kPasses; ++p) {
            float key[kLaneDims], dot[kGroupHeads];
            read_eight(key, staged + p * S::kLoads * kWarp * 16, T{});
#pragma unroll
            for (int h = 0; h < kGroupHeads; ++h) {
                dot[h] = q[h * kLaneDims] * key[0];
#pragma unroll
                for (int d = 1; d < kLaneDims; ++d)
                    dot[h] = fmaf(q[h * kLaneDims + d], key[d], dot[h]);
            }
            scatter_sum<kGroupHeads, S::kLanes / 2, 1>(dot, lane);
            const bool seen = p * S::kKeys + lane / S::kLanes < keys;
#pragma unroll
            for (int r = 0; r < S::kOwned; ++r)
                score[p][r] = seen ? dot[r] : -__int_as_float(0x7f800000);
        }
        weigh(score);
#pragma unroll
        for (int p = 0; p < S::kPasses; ++p) {
            float value[kLaneDims];
            read_eight(value, staged + (S::kPasses + p) * S::kLoads * kWarp * 16, T{});
#pragma unroll
            for (int h = 0; h < kGroupHeads; ++h) {
                const int owner = lane / S::kLanes * S::kLanes + h / S::kOwned;
                const float weight = __shfl_sync(kAllLanes, score[p][h % S::kOwned], owner);
#pragma unroll
                for (int d = 0; d < kLaneDims; ++d)
                    out[h * kLaneDims + d] = fmaf(weight, value[d], out[h * kLaneDims + d]);
            }
        }
    }

    // Scores to weights, and what is there already relative to the new maxima.
    __device__ __forceinline__ void weigh(float (&score)[S::kPasses][S::kOwned]) {
        float scale[S::kOwned];
        bool rises = false;
#pragma unroll
        for (int r = 0; r < S::kOwned; ++r) {
            float top = score[0][r];
#pragma unroll
            for (int p = 1; p < S::kPasses; ++p) top = fmaxf(top, score[p][r]);
#pragma unroll
            for (int offset = S::kLanes; offset < kWarp; offset *= 2)
                top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
            top = fmaxf(top, max[r]);
            scale[r] = exp2f(max[r] - top);
            max[r] = top;
            sum[r] *= scale[r];
#pragma unroll
            for (int p = 0; p < S::kPasses; ++p) {
                score[p][r] = exp2f(score[p][r] - top);
                sum[r] += score[p][r];
            }
            rises |= scale[r] != 1;
        }
        if (!__any_sync(kAllLanes, rises)) return;
#pragma unroll
        for (int h = 0; h < kGroupHeads; ++h) {
            const float factor = __shfl_sync(kAllLanes, scale[h % S::kOwned], h / S::kOwned);
#pragma unroll
            for (int d = 0; d < kLaneDims; ++d) out[h * kLaneDims + d] *= factor;
        }
    }

    // Adds up over the lanes that held different keys.
    __device__ __forceinline__ void finish(Partial<head_dim>& to, int lane) {
        constexpr int kept = kLaneValues / S::kKeys;
        scatter_sum<kLaneValues, kWarp / 2, S::kLanes>(out, lane);
#pragma unroll
        for (int i = 0; i < kept; i += 4) {
            const int head = lane / S::kLanes * (kept / kLaneDims) + i / kLaneDims;
            float* at = to.out[head] + lane % S::kLanes * kLaneDims + i % kLaneDims;
            *reinterpret_cast<float4*>(at) =
                make_float4(out[i], out[i + 1], out[i + 2], out[i + 3]);
        }
#pragma unroll
        for (int r = 0; r < S::kOwned; ++r) {
#pragma unroll
            for (int offset = S::kLanes; offset < kWarp; offset *= 2)
                sum[r] += __shfl_xor_sync(kAllLanes, sum[r], offset);
            if (lane >= S::kLanes) continue;
            to.max[lane * S::kOwned + r] = max[r];
            to.sum[lane * S::kOwned + r] = sum[r];
        }
    }
};

// Fetches a warp's blocks of keys one after the other, a stage each. The page of the next block is
// looked up one block ahead.
template <class T, int head_dim>
struct Fetch {
    using S = Shape<T, head_dim>;
    static constexpr int kStride = S::kBlockKeys * kWarps;
    static constexpr unsigned kKeyBytes = head_dim * sizeof(T);

    const void* home;
    int next;               // position
    const std::byte* keys;  // in the page or ring that holds it

    __device__ __forceinline__ void find(const AttentionArgs& a, const Piece& piece) {
        if (next < piece.end) keys = find_keys<T, head_dim>(home, a, piece.kv_head, next);
    }

    __device__ __forceinline__ void block(const AttentionArgs& a, const Piece& piece,
                                          std::byte* staged, int lane) {
        const int left = piece.end - next;
        if (left > 0) {
            const unsigned slots = a.kv.slots, slot = unsigned(next) % slots;
            const std::byte* lane_keys = keys + lane % S::kLanes * (kLaneDims * sizeof(T));
#pragma unroll
            for (int p = 0; p < S::kPasses; ++p) {
                const int key = p * S::kKeys + lane / S::kLanes;
                const bool seen = key < left;
                // A block starts with a key that is seen: it goes round a ring once at most.
                const unsigned ahead = seen ? slot + key : slot;
                const std::byte* from =
                    lane_keys + (ahead < slots ? ahead : ahead - slots) * kKeyBytes;
#pragma unroll
                for (int i = 0; i < S::kLoads; ++i) {
                    std::byte* to = staged + (p * S::kLoads + i) * kWarp * 16;
                    copy_async_16(to, from + i * 16, seen);
                    copy_async_16(to + S::kBlockLoads / 2 * kWarp * 16,
                                  from + to_values<T, head_dim>(a) + i * 16, seen);
                }
            }
        }
        copy_async_commit();
        next += kStride;
        find(a, piece);
    }
};

// This warp's keys of the unit: every fourth block.
template <class T, int head_dim>
__device__ __forceinline__ void attend(const AttentionArgs& a, const Piece& piece,
                                       std::byte* shared) {
    using S = Shape<T, head_dim>;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    std::byte* staged = shared + lane * 16;
    Fetch<T, head_dim> fetch{kv_home(*a.rows[piece.row].kv, a),
                             piece.begin + warp * S::kBlockKeys, nullptr};
    fetch.find(a, piece);
#pragma unroll
    for (int i = 0; i < S::kStages; ++i)
        fetch.block(a, piece, staged + i * S::kStageBytes, lane);
    Softmax<T, head_dim> softmax;
    softmax.begin(a, piece, lane);
    for (int stage = 0;; stage = stage + 1 < S::kStages ? stage + 1 : 0) {
        const int keys = piece.end - (fetch.next - S::kStages * fetch.kStride);
        if (keys <= 0) break;
        copy_async_wait<S::kStages - 1>();
        softmax.add(staged + stage * S::kStageBytes, keys, lane);
        fetch.block(a, piece, staged + stage * S::kStageBytes, lane);
    }
    copy_async_wait<0>();
    __syncwarp();
    softmax.finish(*reinterpret_cast<Partial<head_dim>*>(shared), lane);
}

__device__ __forceinline__ float sink_of(const AttentionArgs& a, const Piece& piece, int head) {
    return head < piece.heads ? a.sinks[piece.first_head + head] * kLog2E : 0.0f;
}

__device__ __forceinline__ void add_scaled(float4& sum, float factor, float4 v) {
    sum.x = fmaf(factor, v.x, sum.x);
    sum.y = fmaf(factor, v.y, sum.y);
    sum.z = fmaf(factor, v.z, sum.z);
    sum.w = fmaf(factor, v.w, sum.w);
}

__device__ __forceinline__ void store_head(const AttentionArgs& a, const Piece& piece, int head,
                                           int head_dim, int dimension, float4 v, float factor) {
    if (head >= piece.heads) return;
    const size_t at = size_t(piece.row) * a.heads + piece.first_head + head;
    *reinterpret_cast<float4*>(a.out + at * head_dim + dimension) =
        make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
}

// The warps' parts of a unit to one: the row's result if there are no other units, else to
// scratch. Four dimensions of a head a thread.
template <int head_dim>
__device__ __forceinline__ void merge_warps(const AttentionArgs& a, const Piece& piece,
                                            const std::byte* shared,
                                            Partial<head_dim>* units) {
    const int head = threadIdx.x / (head_dim / 4), dimension = threadIdx.x % (head_dim / 4) * 4;
    if (head >= kGroupHeads) return;
    const auto part = [&](int warp) {
        return reinterpret_cast<const Partial<head_dim>*>(shared + warp * kWarpBytes);
    };
    float top = part(0)->max[head];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) top = fmaxf(top, part(w)->max[head]);
    float sum = 0;
    float4 out = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
        const float factor = exp2f(part(w)->max[head] - top);
        sum = fmaf(factor, part(w)->sum[head], sum);
        add_scaled(out, factor, *reinterpret_cast<const float4*>(&part(w)->out[head][dimension]));
    }
    if (piece.units == 1) {
        const float sink = sink_of(a, piece, head), all = fmaxf(top, sink);
        const float factor = exp2f(top - all);
        const float total = fmaf(factor, sum, exp2f(sink - all));
        store_head(a, piece, head, head_dim, dimension, out, factor / total);
        return;
    }
    Partial<head_dim>& to = units[piece.unit];
    *reinterpret_cast<float4*>(&to.out[head][dimension]) = out;
    if (dimension == 0) {
        to.max[head] = top;
        to.sum[head] = sum;
    }
}

// All units of a row and group of heads, and the sink: first the units' weights, sixteen threads
// a head, then sums that wait for nothing but memory.
template <int head_dim>
__device__ __forceinline__ void merge_units(const AttentionArgs& a, const Piece& piece,
                                            const Partial<head_dim>* units, Merge& merge) {
    {
        constexpr int kThreadsPerHead = kThreads / kGroupHeads;
        const int head = threadIdx.x / kThreadsPerHead, first = threadIdx.x % kThreadsPerHead;
        const float sink = sink_of(a, piece, head);
        float top = fmaxf(kLowest, sink);
        for (int u = first; u < piece.units; u += kThreadsPerHead)
            top = fmaxf(top, units[u].max[head]);
#pragma unroll
        for (int offset = 1; offset < kThreadsPerHead; offset *= 2)
            top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
        float total = 0;
        for (int u = first; u < piece.units; u += kThreadsPerHead) {
            const float weight = exp2f(units[u].max[head] - top);
            merge.weight[head][u] = weight;
            total = fmaf(weight, units[u].sum[head], total);
        }
#pragma unroll
        for (int offset = 1; offset < kThreadsPerHead; offset *= 2)
            total += __shfl_xor_sync(kAllLanes, total, offset);
        if (first == 0) merge.total[head] = total + exp2f(sink - top);
    }
    __syncthreads();
    const int head = threadIdx.x / (head_dim / 4), dimension = threadIdx.x % (head_dim / 4) * 4;
    if (head >= kGroupHeads) return;
    float4 out = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int u = 0; u < piece.units; ++u)
        add_scaled(out, merge.weight[head][u],
                   *reinterpret_cast<const float4*>(&units[u].out[head][dimension]));
    store_head(a, piece, head, head_dim, dimension, out, 1 / merge.total[head]);
}

// What the threads of a block share beside the warps' own parts: registers are all taken.
struct Desk {
    Piece piece;
    int number;  // of the piece
    int position[kLaunchRows];
    int units_end[kLaunchRows];  // units of all rows up to this one
};

// By one warp, a row a lane.
__device__ __forceinline__ void count_units(const AttentionArgs& a, Desk& desk, int lane) {
    int position = 0, units = 0;
    if (lane < a.tokens) {
        position = a.rows[lane].position;
        units = a.rows[lane].kv ? split_keys(position, a.kv.window).units : 1;
    }
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
        const int before = __shfl_up_sync(kAllLanes, units, offset);
        if (lane >= offset) units += before;
    }
    desk.position[lane] = position;
    desk.units_end[lane] = units;
    if (lane == 0) desk.number = blockIdx.x;
}

__host__ __device__ inline int group_count(int kv_group) {
    return (kv_group + kGroupHeads - 1) / kGroupHeads;
}

__host__ __device__ inline int pair_count(int heads, int kv_heads) {
    return kv_heads * group_count(heads / kv_heads);
}

// By the same warp.
__device__ __forceinline__ void take_piece(const AttentionArgs& a, Desk& desk, int lane) {
    const int kv_group = a.heads / a.kv_heads, groups = group_count(kv_group);
    const int pairs = a.kv_heads * groups;
    const int unit = desk.number / pairs, pair = desk.number % pairs;
    const int row = __popc(__ballot_sync(kAllLanes, desk.units_end[lane] <= unit));
    if (lane != 0) return;
    const int first = pair % groups * kGroupHeads;
    Piece& piece = desk.piece;
    const Split split = split_keys(desk.position[row], a.kv.window);
    piece.row = row;
    piece.pair = row * pairs + pair;
    piece.unit = row == 0 ? unit : unit - desk.units_end[row - 1];
    piece.units = split.units;
    piece.begin = split.seen.first + piece.unit * split.unit_keys;
    piece.end = min(piece.begin + split.unit_keys, split.seen.last + 1);
    piece.kv_head = pair / groups;
    piece.first_head = piece.kv_head * kv_group + first;
    piece.heads = min(kGroupHeads, kv_group - first);
}

template <class T, int head_dim>
__device__ __forceinline__ void attend_piece(const AttentionArgs& a, const Piece& piece,
                                             const Scratch<head_dim>& scratch) {
    static_assert(sizeof(Partial<head_dim>) <= kWarpBytes && sizeof(Merge) <= kWarpBytes);
    std::byte* shared = shared_memory();
    if (a.rows[piece.row].kv == nullptr) {
        for (int i = threadIdx.x; i < piece.heads * head_dim; i += kThreads)
            a.out[(size_t(piece.row) * a.heads + piece.first_head) * head_dim + i] = 0;
        return;
    }
    attend<T, head_dim>(a, piece, shared + threadIdx.x / kWarp * kWarpBytes);
    __syncthreads();

    Partial<head_dim>* units = scratch.partials + size_t(piece.pair) * kMostUnits;
    merge_warps<head_dim>(a, piece, shared, units);
    if (piece.units == 1) return;
    // Who comes last sees what all others have written.
    __threadfence();
    __syncthreads();
    unsigned* finished = scratch.finished + piece.pair;
    Merge& merge = *reinterpret_cast<Merge*>(shared);
    if (threadIdx.x == 0)
        merge.last = atomicAdd(finished, 1u) == unsigned(piece.units) - 1;
    __syncthreads();
    if (!merge.last) return;
    __threadfence();
    merge_units<head_dim>(a, piece, units, merge);
    if (threadIdx.x == 0) *finished = 0;
}

template <class T, int head_dim>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    attention_decode_kernel(AttentionArgs a, Scratch<head_dim> scratch) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    Desk& desk = *reinterpret_cast<Desk*>(shared_memory() + kWarps * kWarpBytes);
    const int lane = threadIdx.x % kWarp;
    if (threadIdx.x < kWarp) count_units(a, desk, lane);
    __syncthreads();
    while (desk.number < desk.units_end[kLaunchRows - 1] * pair_count(a.heads, a.kv_heads)) {
        if (threadIdx.x < kWarp) take_piece(a, desk, lane);
        __syncthreads();
        attend_piece<T, head_dim>(a, desk.piece, scratch);
        if (threadIdx.x == 0) desk.number += gridDim.x;
        __syncthreads();
    }
}

// Counters stand in the same place whatever the number of rows.
template <int head_dim>
Scratch<head_dim> carve(Carver& memory, int rows, int pairs) {
    Scratch<head_dim> out;
    out.finished = memory.take<unsigned>(size_t(kLaunchRows) * pairs);
    out.partials =
        memory.take<Partial<head_dim>>(size_t(std::min(rows, kLaunchRows)) * pairs * kMostUnits);
    return out;
}

template <class T, int head_dim>
void launch_decode(const Device& device, const AttentionArgs& args, std::byte* scratch) {
    const int pairs = pair_count(args.heads, args.kv_heads);
    const int most_units =
        args.kv.window ? split_keys(args.kv.window, args.kv.window).units : kMostUnits;
    Carver memory(scratch, SIZE_MAX);
    const Scratch<head_dim> carved = carve<head_dim>(memory, args.tokens, pairs);
    for (int first = 0; first < args.tokens; first += kLaunchRows) {
        AttentionArgs part = args;
        const size_t before = size_t(first) * args.heads * args.head_dim;
        part.rows += first;
        part.q += before;
        part.out += before;
        part.tokens = std::min(kLaunchRows, args.tokens - first);
        const int blocks = std::min(device.multiprocessors * kBlocksPerMultiprocessor,
                                    part.tokens * pairs * most_units);
        launch(device, attention_decode_kernel<T, head_dim>, dim3(blocks), dim3(kThreads),
               kWarps * kWarpBytes + sizeof(Desk), part, carved);
    }
}

}  // namespace

size_t attention_scratch_bytes(const Device&, int rows, int heads, int kv_heads, int head_dim) {
    Carver counter;
    const int pairs = pair_count(heads, kv_heads);
    if (head_dim == 64)
        carve<64>(counter, rows, pairs);
    else
        carve<32>(counter, rows, pairs);
    return counter.used();
}

void attention_decode(const Device& device, const AttentionArgs& args, std::byte* scratch) {
    const bool half = args.kv.type == DType::kF16;
    if (args.head_dim == 64)
        (half ? launch_decode<f16, 64> : launch_decode<float, 64>)(device, args, scratch);
    else
        (half ? launch_decode<f16, 32> : launch_decode<float, 32>)(device, args, scratch);
}

}  // namespace gptoss::cuda

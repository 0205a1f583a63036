// Attention in float32: the units a row's keys are cut into, and their way to a warp's part of
// shared memory. See attention_decode.cu.
#pragma once

#include "backend/cuda/attention.cuh"

namespace gptoss::cuda::decode_attention {

constexpr int kWarp = 32;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kGroupHeads = 8;  // query heads that share a read
constexpr int kLaneDims = 8;
constexpr int kLaneValues = kGroupHeads * kLaneDims;
constexpr int kWarpBytes = 8 * 1024;  // keys and values on their way to a warp, or in use

// A unit has at least kUnitKeys keys, below which merging costs more than it saves, and a row at
// most kMostUnits, which times eight KV heads is about one piece for each block of a large GPU.
constexpr int kUnitKeys = 128;
constexpr int kUnitMultiple = 128;  // no warp's block of keys crosses a page
constexpr int kMostUnits = 48;

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

// A unit of one row and up to kGroupHeads query heads of one KV head: a pair is a row and these.
struct Piece {
    int begin, end;  // positions
    int row, pair, unit, units;
    int kv_head, first_head, heads;
    int first_new;  // no earlier position is written by this step
};

// How a warp shares keys of type T out, and how a thread's part of them stands in shared memory.
template <class T, int head_dim>
struct Shape {
    static constexpr int kLanes = head_dim / kLaneDims;  // that hold one key
    static constexpr int kKeys = kWarp / kLanes;         // held at once
    static constexpr int kPasses = head_dim / 32;        // keys weighed at once: as registers allow
    static constexpr int kBlockKeys = kKeys * kPasses;
    static constexpr int kOwned = kGroupHeads / kLanes;  // heads whose scores a lane holds
    static constexpr int kLoadBytes = sizeof(T) == 1 ? 8 : 16;
    static constexpr int kLoads = kLaneDims * sizeof(T) / kLoadBytes;
    static constexpr int kBlockLoads = 2 * kLoads * kPasses;
    static constexpr int kStageBytes = kBlockLoads * kWarp * kLoadBytes;
    static constexpr int kStages = kWarpBytes / kStageBytes;
    static_assert(kUnitMultiple % (kBlockKeys * kWarps) == 0);
};

template <int bytes>
__device__ __forceinline__ void copy(std::byte* shared, const std::byte* global, bool valid) {
    if constexpr (bytes == 8)
        copy_async_8(shared, global, valid);
    else
        copy_async_16(shared, global, valid);
}

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
                    std::byte* to = staged + (p * S::kLoads + i) * kWarp * S::kLoadBytes;
                    const std::byte* at = from + i * S::kLoadBytes;
                    copy<S::kLoadBytes>(to, at, seen);
                    copy<S::kLoadBytes>(to + S::kBlockLoads / 2 * kWarp * S::kLoadBytes,
                                        at + to_values<T, head_dim>(a), seen);
                }
            }
        }
        copy_async_commit();
        next += kStride;
        find(a, piece);
    }
};

}  // namespace gptoss::cuda::decode_attention

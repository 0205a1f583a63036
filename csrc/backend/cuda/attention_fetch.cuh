// Attention of single rows: the units a row's keys are cut into, and their way to a warp's part of
// shared memory. See attention_decode.cu.
#pragma once

#include <type_traits>

#include "backend/cuda/attention.cuh"

namespace gptoss::cuda::decode_attention {

constexpr int kWarp = 32;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kGroupHeads = 8;        // query heads that share a read
constexpr int kLaneDims = 8;          // of a float32 key
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
    const void* home;  // kv_home; null: the row is none
    int begin, end;    // positions
    int row, pair, unit, units;
    int kv_head, first_head, heads;
    int first_new;  // no earlier position is written by this step
};

// What a warp knows after its keys, and a block after its unit: of each head the greatest score,
// the sum of the weights and the weighted values, both relative to that score.
template <int head_dim>
struct Partial {
    float out[kGroupHeads][head_dim];
    float max[kGroupHeads], sum[kGroupHeads];
};

// A warp's block of keys, those that are weighed at once, and then of values in shared memory. A
// lane copies kParts parts of 16 bytes of each: where they lie in the block as the cache has it,
// and their place here.
//
// Of float32, each lane copies the eight dimensions that it uses.
template <class T, int head_dim>
struct Stage {
    static_assert(std::is_same_v<T, float>);
    static constexpr int kLanes = head_dim / kLaneDims;  // that hold one key
    static constexpr int kKeys = kWarp / kLanes;         // held at once
    static constexpr int kPasses = head_dim / 32;        // as registers allow
    static constexpr int kBlockKeys = kKeys * kPasses;
    static constexpr int kOwned = kGroupHeads / kLanes;  // heads whose scores a lane holds
    static constexpr int kKeyParts = 2;                  // of a lane's dimensions
    static constexpr int kParts = kPasses * kKeyParts;
    static constexpr int kHalfBytes = kParts * kWarp * 16;  // the keys; the values follow

    static __device__ __forceinline__ unsigned first(int lane) { return lane * (kKeyParts * 16); }
    static __device__ __forceinline__ constexpr unsigned step(int part) {
        return part / kKeyParts * (kWarp * kKeyParts * 16) + part % kKeyParts * 16;
    }
    static __device__ __forceinline__ unsigned place(int part, int lane) {
        return lane * 16 + part * (kWarp * 16);
    }
};

// Of 16 bits or fewer, a row a key. Parts of 16 bytes change places from key to key: what lanes
// read at once, the same part of several keys, is to lie in different banks.
template <class T, int head_dim>
    requires(sizeof(T) <= 2)
struct Stage<T, head_dim> {
    static constexpr int kBlockKeys = 16;  // of one product with values
    static constexpr unsigned kRowBytes = head_dim * sizeof(T);
    static constexpr unsigned kRowParts = kRowBytes / 16;
    static constexpr int kParts = kBlockKeys * kRowParts / kWarp;
    static constexpr int kHalfBytes = kBlockKeys * kRowBytes;

    static __device__ __forceinline__ unsigned first(int lane) { return lane * 16; }
    static __device__ __forceinline__ constexpr unsigned step(int part) {
        return part * (kWarp * 16);
    }
    // As at() has it. From part to part keys are 4 on where a row has eight parts, else a multiple
    // of 8: only 4 on changes places, by four parts.
    static __device__ __forceinline__ unsigned place(int part, int lane) {
        const unsigned own = at(first(lane) / kRowBytes, first(lane) % kRowBytes);
        return (own ^ (kRowParts == 8 && part % 2 ? 64 : 0)) + step(part);
    }
    // Byte `offset` of a key's row. Short rows change places within a line of all banks.
    static __device__ __forceinline__ unsigned at(unsigned key, unsigned offset) {
        const unsigned turn = kRowParts == 8   ? ((key & 6) ^ (key & 1) << 2) * 16
                              : kRowParts == 4 ? key / 2 % 4 * 32
                                               : key / 4 % 2 * 32;
        return (key * kRowBytes + offset) ^ turn;
    }
};

// Fetches a warp's blocks of keys one after the other, a stage each. The page of the next block is
// looked up one block ahead.
template <class T, int head_dim>
struct Fetch {
    using S = Stage<T, head_dim>;
    static constexpr int kStageBytes = 2 * S::kHalfBytes;
    static constexpr int kStages = kWarpBytes / kStageBytes;
    static constexpr int kStride = S::kBlockKeys * kWarps;
    static constexpr unsigned kKeyBytes = head_dim * sizeof(T);
    static_assert(kStages >= 2 && kUnitMultiple % kStride == 0);

    int next;               // position
    unsigned slot;          // its place
    const std::byte* keys;  // in this page or ring

    __device__ __forceinline__ Fetch(const AttentionArgs& a, const Piece& piece, int first)
        : next(first), slot(unsigned(first) % unsigned(a.kv.slots)), keys(nullptr) {
        find(a, piece);
    }

    __device__ __forceinline__ void find(const AttentionArgs& a, const Piece& piece) {
        if (next < piece.end) keys = find_keys<T, head_dim>(piece.home, a, piece.kv_head, next);
    }

    __device__ __forceinline__ void block(const AttentionArgs& a, const Piece& piece,
                                          std::byte* staged, int lane) {
        const int left = piece.end - next;
        const unsigned slots = a.kv.slots;
        if (left >= S::kBlockKeys && slot + S::kBlockKeys <= slots) {
            const std::byte* from = keys + (slot * kKeyBytes + S::first(lane));
            const std::byte* values = from + to_values<T, head_dim>(a);
#pragma unroll
            for (int i = 0; i < S::kParts; ++i) {
                std::byte* to = staged + S::place(i, lane);
                copy_async_16(to, from + S::step(i), true);
                copy_async_16(to + S::kHalfBytes, values + S::step(i), true);
            }
        } else if (left > 0) {
#pragma unroll 1
            for (int i = 0; i < S::kParts; ++i) {
                const unsigned key = (S::first(lane) + S::step(i)) / kKeyBytes;
                const bool seen = int(key) < left;
                // A block starts with a key that is seen: it goes round a ring once at most.
                const unsigned back = slot + key >= slots ? slots * kKeyBytes : 0;
                const unsigned offset = slot * kKeyBytes + S::first(lane) + S::step(i) - back;
                const std::byte* at = seen ? keys + offset : keys;
                std::byte* to = staged + S::place(i, lane);
                copy_async_16(to, at, seen);
                copy_async_16(to + S::kHalfBytes, at + to_values<T, head_dim>(a), seen);
            }
        }
        copy_async_commit();
        next += kStride;
        slot += kStride;
        if (slot < slots) return;
        slot = wrapped(slot, slots);
        if (!a.kv.window) find(a, piece);
    }
};

}  // namespace gptoss::cuda::decode_attention

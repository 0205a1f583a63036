// Attention on the matrix units: which rows a block takes at once, and their keys' way to shared
// memory. See attention_prefill.cu.
#pragma once

#include "backend/cuda/attention.cuh"
#include "backend/cuda/cache.cuh"

namespace gptoss::cuda::prefill_attention {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kWarpPairs = 16;
constexpr int kTilePairs = kWarps * kWarpPairs;
constexpr int kTileKeys = 64;  // divides a page
constexpr int kStepKeys = 32;  // weighed at once
constexpr int kStages = 2;

// Keys and values of a tile in shared memory, as float16: rows of head_dim, in units of 16 bytes
// whose order within a row changes from row to row, so that eight rows of ldmatrix never share a
// bank.
template <int head_dim>
struct Tile {
    static constexpr int kRowBytes = head_dim * 2;
    static constexpr int kRowUnits = kRowBytes / 16;
    static constexpr int kHalfBytes = kTileKeys * kRowBytes;  // the keys; the values follow
    static constexpr int kBytes = 2 * kHalfBytes;

    // A unit of eight keys on has the same turn; a unit other in some bits, a place other in those.
    __device__ __forceinline__ static unsigned at(unsigned key, unsigned unit) {
        const unsigned turn = head_dim == 64 ? key % 8 : key / 2 % 4;
        return key * kRowBytes + (unit ^ turn) * 16;
    }
};

// Rows [begin, end) of a block's tile: consecutive positions of one sequence.
struct Run {
    const KvView* kv;
    int begin, end;
    int position;        // of row `begin`
    int kv_group;        // query heads of a KV head
    Span keys;           // that any of its rows sees
    Span warps[kWarps];  // positions of each warp's first and last query; none: last < first

    __device__ int position_of(int row) const { return position + row - begin; }
};

// Where a tile of keys lies in the cache.
struct Source {
    int start;              // position
    unsigned slot;          // its place
    const std::byte* keys;  // in this page or ring
};

// What the threads of a block share beside the tiles: registers are all taken.
struct Desk {
    Run run;
    Source sources[kStages];  // of the tile to fetch next, and the one after
    int next_row;             // of the tile
    int one_by_one;           // rows before this are computed alone
};

__device__ __forceinline__ int tile_rows(const AttentionArgs& a) {
    return kTilePairs / (a.heads / a.kv_heads);
}

// The last tiles see most keys and come first.
__device__ __forceinline__ int first_row(const AttentionArgs& a) {
    return int(gridDim.x - 1 - blockIdx.x) * tile_rows(a);
}

__device__ __forceinline__ int row_count(const AttentionArgs& a) {
    return min(a.tokens - first_row(a), tile_rows(a));
}

// By one warp; there is a next row.
template <class T, int head_dim>
__device__ __forceinline__ void take_run(const AttentionArgs& a, Desk& desk) {
    const int lane = threadIdx.x % kWarp, begin = desk.next_row, count = row_count(a);
    const Row* rows = a.rows + first_row(a);
    const Row row = rows[begin];
    int end = begin + 1;
    while (begin >= desk.one_by_one) {
        const int i = end + lane;
        const bool follows =
            i < count && rows[i].kv == row.kv && rows[i].position == row.position + i - begin;
        const unsigned stops = ~__ballot_sync(kAllLanes, follows);
        end += stops ? __ffs(stops) - 1 : kWarp;
        if (stops) break;
    }
    const int kv_group = a.heads / a.kv_heads;
    if (lane < kWarps) {
        const int first = max(lane * kWarpPairs / kv_group, begin);
        const int last = min((lane * kWarpPairs + kWarpPairs - 1) / kv_group, end - 1);
        desk.run.warps[lane] = {row.position + first - begin, row.position + last - begin};
    }
    __syncwarp();
    if (lane != 0) return;
    desk.run.kv = row.kv;
    desk.run.begin = begin;
    desk.run.end = end;
    desk.run.position = row.position;
    desk.run.kv_group = kv_group;
    desk.run.keys = {seen_by(row.position, a.kv.window).first, row.position + end - begin - 1};
    desk.next_row = end;
    const int start = desk.run.keys.first / kTileKeys * kTileKeys;
    desk.sources[0] = {start, unsigned(start) % unsigned(a.kv.slots),
                       find_keys<T, head_dim>(kv_home(*row.kv, a), a, blockIdx.y, start)};
}

// By one thread: the tile after the one `from`. Pages are looked up a tile ahead of the fetch.
template <class T, int head_dim>
__device__ __forceinline__ void advance(const AttentionArgs& a, const Run& run, const Source& from,
                                        Source& to) {
    to.start = from.start + kTileKeys;
    to.slot = wrapped(from.slot + kTileKeys, a.kv.slots);
    to.keys = from.keys;
    if (to.start <= run.keys.last && !a.kv.window && to.slot == 0)
        to.keys = find_keys<T, head_dim>(kv_home(*run.kv, a), a, blockIdx.y, to.start);
}

// The parts of 16 bytes that a thread copies of a tile as the cache has it. One of fp8 stands at
// first in the first of the two units that it becomes.
template <class T, int head_dim, class Use>
__device__ __forceinline__ void for_own_parts(Use use) {
    constexpr unsigned kRowParts = head_dim * sizeof(T) / 16, kParts = kTileKeys * kRowParts;
    constexpr unsigned kUnits = sizeof(f16) / sizeof(T);
    unsigned thread = threadIdx.x;
    if constexpr (kUnits > 1) forget(thread);
#pragma unroll
    for (unsigned i = 0; i < (kParts + kThreads - 1) / kThreads; ++i) {
        const unsigned part = i * kThreads + thread;
        const unsigned key = part / kRowParts, column = part % kRowParts;
        if (kParts >= kThreads || part < kParts) use(key, column, column * kUnits);
    }
}

// Starts to copy a tile of keys and values to shared memory, if the run has it.
template <class T, int head_dim>
__device__ __forceinline__ void fetch_tile(const AttentionArgs& a, const Run& run,
                                           const Source& from, unsigned to) {
    using Shape = Tile<head_dim>;
    if (from.start > run.keys.last) return;
    for_own_parts<T, head_dim>([&](unsigned key, unsigned column, unsigned unit) {
        const int position = from.start + int(key);
        const bool seen = position >= run.keys.first && position <= run.keys.last;
        const unsigned slot = wrapped(from.slot + key, a.kv.slots);
        const std::byte* at = from.keys + slot * unsigned(head_dim * sizeof(T)) + column * 16;
        std::byte* place = shared_memory() + to + Shape::at(key, unit);
        copy_async_16(place, at, seen);
        copy_async_16(place + Shape::kHalfBytes, at + to_values<T, head_dim>(a), seen);
    });
    copy_async_commit();
}

// What a thread has copied of a tile, once it is there, to float16.
template <class T, int head_dim>
__device__ __forceinline__ void widen_tile([[maybe_unused]] unsigned tile) {
    if constexpr (sizeof(T) < sizeof(f16)) {
        using Shape = Tile<head_dim>;
        for_own_parts<T, head_dim>([&](unsigned key, unsigned, unsigned unit) {
            unsigned first = tile + Shape::at(key, unit);
#pragma unroll
            for (int half = 0; half < 2; ++half, first += Shape::kHalfBytes) {
                const std::byte* from = shared_memory() + first;
#pragma unroll
                for (int i = 1; i >= 0; --i) {
                    const uint2 part = *reinterpret_cast<const uint2*>(from + 8 * i);
                    const uint2 low = widen_fp8(part.x), high = widen_fp8(part.y);
                    // The unit after an even one is in the place other in one bit.
                    *reinterpret_cast<uint4*>(shared_memory() + (first ^ 16 * i)) =
                        make_uint4(low.x, low.y, high.x, high.y);
                }
            }
        });
    }
}

}  // namespace gptoss::cuda::prefill_attention

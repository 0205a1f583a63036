// The attention stage for single query rows: decode steps, and all rows of exact precision.
//
// A piece of work is (row, KV head, unit): a unit is a part of the keys that the row sees, cut at
// places that the row's position alone decides. A fixed number of blocks takes the pieces in turn;
// how many there are is read from the rows, so that a captured launch serves any position. The
// query heads of a KV head, up to eight at once, share one read of its keys and values.
//
// A warp copies the blocks of keys and values that it will weigh to shared memory, some ahead of
// their use. Those of 16 bits and fewer it multiplies on the matrix units, queries and weights as
// two float16 terms (attention_mma.cuh); those of exact precision in float32 (attention_float.cuh).
// Warps are merged in order, and so are units, by the block that finishes a row's last one; the
// sink comes in there, once.
//
// A long context is bound by reading keys and values, a short one by the latency of its steps.
#include <algorithm>

#include "backend/cuda/attention_merge.cuh"
#include "backend/cuda/stage_kernels.h"
#include "base/memory.h"

namespace gptoss::cuda {
namespace decode_attention {
namespace {

constexpr int kBlocksPerMultiprocessor = 3;  // launched; of float32 no more have registers
// On the matrix units registers are left beside them for a block of the next kernel.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kMatrixBlocks = 4;  // not here, where it would spill
#else
constexpr int kMatrixBlocks = 5;
#endif

// Rows of one launch: a lane finds out about each, and scratch is for no more.
constexpr int kLaunchRows = kWarp;

template <int head_dim>
struct Units {
    unsigned* finished;           // [kLaunchRows, pairs]   how many; zero between launches
    Partial<head_dim>* partials;  // [rows, pairs, kMostUnits]
};

// What the threads of a block share beside the warps' own parts: in float32 registers are all
// taken.
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
    const KvView* kv = a.rows[row].kv;
    piece.home = kv ? kv_home(*kv, a) : nullptr;
    piece.row = row;
    piece.pair = row * pairs + pair;
    piece.unit = row == 0 ? unit : unit - desk.units_end[row - 1];
    piece.units = split.units;
    piece.begin = split.seen.first + piece.unit * split.unit_keys;
    piece.end = min(piece.begin + split.unit_keys, split.seen.last + 1);
    piece.kv_head = pair / groups;
    piece.first_head = piece.kv_head * kv_group + first;
    piece.heads = min(kGroupHeads, kv_group - first);
    piece.first_new = a.tokens == 1 ? desk.position[0] : 0;
}

template <class T, int head_dim>
__device__ __forceinline__ void attend_piece(const AttentionArgs& a, const Piece& piece,
                                             const Units<head_dim>& scratch, Start& start) {
    static_assert(sizeof(Partial<head_dim>) <= kWarpBytes && sizeof(Merge) <= kWarpBytes);
    std::byte* shared = shared_memory();
    if (piece.home == nullptr) {
        start.wait();
        for (int i = threadIdx.x; i < piece.heads * head_dim; i += kThreads)
            a.out[(size_t(piece.row) * a.heads + piece.first_head) * head_dim + i] = 0;
        return;
    }
    attend<T, head_dim>(a, piece, shared + threadIdx.x / kWarp * kWarpBytes, start);
    __syncthreads();

    Partial<head_dim>* units = scratch.partials + size_t(piece.pair) * kMostUnits;
    merge_warps<head_dim>(a, piece, shared, units);
    if (piece.units == 1) return;
    // As arrive_last(), with which a register would spill.
    __syncthreads();
    unsigned* finished = scratch.finished + piece.pair;
    Merge& merge = *reinterpret_cast<Merge*>(shared);
    if (threadIdx.x == 0) merge.last = count_arrival(finished) == unsigned(piece.units) - 1;
    __syncthreads();
    if (!merge.last) return;
    merge_units<head_dim>(a, piece, units, merge);
    if (threadIdx.x == 0) *finished = 0;
}

template <class T, int head_dim>
__global__ void __launch_bounds__(kThreads,
                                  sizeof(T) <= 2 ? kMatrixBlocks : kBlocksPerMultiprocessor)
    attention_decode_kernel(AttentionArgs a, Units<head_dim> scratch) {
    Desk& desk = *reinterpret_cast<Desk*>(shared_memory() + kWarps * kWarpBytes);
    const int lane = threadIdx.x % kWarp;
    // Rows and pages are the host's: in memory before the step's first kernel.
    if (threadIdx.x < kWarp) count_units(a, desk, lane);
    __syncthreads();
    Start start;
    while (desk.number < desk.units_end[kLaunchRows - 1] * pair_count(a.heads, a.kv_heads)) {
        if (threadIdx.x < kWarp) take_piece(a, desk, lane);
        __syncthreads();
        attend_piece<T, head_dim>(a, desk.piece, scratch, start);
        if (threadIdx.x == 0) desk.number += gridDim.x;
        __syncthreads();
    }
    start.wait();
}

// Counters stand in the same place whatever the number of rows.
template <int head_dim>
Units<head_dim> carve(Carver& memory, int rows, int pairs) {
    Units<head_dim> out;
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
    const Units<head_dim> carved = carve<head_dim>(memory, args.tokens, pairs);
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
}  // namespace decode_attention

size_t attention_scratch_bytes(const Device&, int rows, int heads, int kv_heads, int head_dim) {
    using namespace decode_attention;
    Carver counter;
    const int pairs = pair_count(heads, kv_heads);
    if (head_dim == 64)
        carve<64>(counter, rows, pairs);
    else
        carve<32>(counter, rows, pairs);
    return counter.used();
}

void attention_decode(const Device& device, const AttentionArgs& args, std::byte* scratch) {
    using namespace decode_attention;
    with_kv_type(args.kv.type, [&]<class T>(T) {
        if (args.head_dim == 64)
            launch_decode<T, 64>(device, args, scratch);
        else
            launch_decode<T, 32>(device, args, scratch);
    });
}

}  // namespace gptoss::cuda

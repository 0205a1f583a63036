// One sequence's keys and values: a ring for the windowed layers, pages for the full ones, made as
// the sequence grows.
//
// Pages may be shared with forks; one that is written to while it is shared is copied first. Going
// back is free as far as the ring still holds the window before; farther back it needs a snapshot,
// which holds the window before one position.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/kv_geometry.h"

namespace gptoss {

class KvCache {
  public:
    KvCache(const KvGeometry& geometry, int max_context)
        : geometry_(geometry), most_pages_(geometry.pages(max_context)) {}

    // Makes room for writing positions [begin, end). Throws OutOfMemory and stays as it was.
    void reserve(Backend& backend, int begin, int end);
    // False where reserve() would throw.
    bool try_reserve(Backend& backend, int begin, int end);
    // The same first `positions` again, its pages shared. Throws OutOfMemory.
    std::unique_ptr<KvCache> fork(Backend& backend, int positions) const;
    // Remembers how to come back to having `positions`, if the last snapshot is not close before.
    // Where there is no memory for that it is left out.
    void snapshot(Backend& backend, int positions);
    // Goes back to having `positions`, or to the most below that it can, which it returns.
    int rewind(Backend& backend, int positions);

    // What `positions` take, as pieces in the host's memory: the pages, then the window before.
    int pieces(int positions) const;
    size_t piece_bytes(int positions, int piece) const;
    size_t saved_bytes(int positions) const;  // of all pieces
    void read_piece(Backend& backend, int positions, int piece, std::byte* out) const;
    // Of all pieces in order, into a cache that was just made.
    void write_piece(Backend& backend, int positions, int piece, const std::byte* from);

    // In the backend's memory.
    const KvView* view() const { return reinterpret_cast<const KvView*>(table_.data()); }
    // Of all it holds, shared or not.
    size_t bytes() const;

  private:
    struct Snapshot {
        int positions;
        StageMemory window;
    };
    std::byte** page_table() const;
    void make(Backend& backend);
    // Copies the window before `positions` between the ring and memory where it lies packed.
    enum class Direction { kFromRing, kToRing };
    void copy_window(Backend& backend, int positions, std::byte* packed, Direction direction) const;
    void restore(Backend& backend, const Snapshot& from);

    KvGeometry geometry_;
    int most_pages_;
    StageMemory table_;  // KvView, then its pages [most_pages_]
    StageMemory ring_;
    std::vector<std::shared_ptr<const StageMemory>> pages_;
    // By rising position; shared with forks.
    std::deque<std::shared_ptr<const Snapshot>> snapshots_;
    // What the ring holds of positions below ring_end_: those from ring_begin_ on, and not more
    // than it has slots.
    int ring_begin_ = 0, ring_end_ = 0;
};

}  // namespace gptoss

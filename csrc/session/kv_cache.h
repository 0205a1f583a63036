// One sequence's keys and values: a ring for the windowed layers, pages for the full ones, made as
// the sequence grows.
//
// Pages may be shared with forks and cached prefixes; one that is written to while it is shared is
// copied first. Going back is free as far as the ring still holds the window before; farther back
// it needs a snapshot, which holds the window before one position.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/kv_geometry.h"
#include "session/kv_block.h"

namespace gptoss {

// All that is needed to go on after the first `positions` of a sequence.
struct KvPrefix {
    int positions = 0;
    std::vector<HeldBlock> pages;
    HeldBlock window;  // none where no layer is windowed
};

class KvCache {
  public:
    KvCache(const KvGeometry& geometry, std::shared_ptr<KvBudget> budget, int max_context)
        : geometry_(geometry),
          budget_(std::move(budget)),
          most_pages_(geometry.pages(max_context)) {}

    // Makes room for writing positions [begin, end). Throws OutOfMemory and stays as it was.
    void reserve(Backend& backend, int begin, int end);
    // False where reserve() would throw.
    bool try_reserve(Backend& backend, int begin, int end);
    // Bytes that it would take, with those of restore() before.
    size_t missing(int begin, int end) const;
    // The same first `positions` again, its pages shared. Throws OutOfMemory.
    std::unique_ptr<KvCache> fork(Backend& backend, int positions) const;
    // Remembers how to come back to having `positions`, if the last snapshot is not close before.
    void snapshot(Backend& backend, int positions);
    // False if there were none.
    bool forget_snapshots();
    // Goes back to having `positions`, or to the most below that it can, which it returns.
    int rewind(Backend& backend, int positions);

    // Its first `positions`, which must be among those that a step has just computed.
    KvPrefix prefix(Backend& backend, int positions) const;
    // Has the prefix, and nothing else. Throws OutOfMemory and stays as it was.
    void adopt(Backend& backend, const KvPrefix& prefix);

    // Off the device, and back; nothing else may be asked of it in between.
    void spill(Backend& backend);
    void restore(Backend& backend);
    bool resident() const { return resident_; }
    // Whether spill() would free memory.
    bool spillable() const;

    // What `positions` take, as pieces in the host's memory: the pages, then the window before.
    int pieces(int positions) const;
    size_t piece_bytes(int positions, int piece) const;
    size_t saved_bytes(int positions) const;  // of all pieces
    void read_piece(Backend& backend, int positions, int piece, std::byte* out) const;
    // Of all pieces in order, into a cache that was just made.
    void write_piece(Backend& backend, int positions, int piece, const std::byte* from);

    // In the backend's memory.
    const KvView* view() const { return reinterpret_cast<const KvView*>(table_.data()); }
    // Of all it holds, shared or not, on the device or off it.
    size_t bytes() const;
    const KvGeometry& geometry() const { return geometry_; }

  private:
    struct Snapshot {
        int positions;
        HeldBlock window;
    };
    template <class Self, class Use>
    static void for_each_block(Self& self, Use use) {
        if (self.ring_) use(self.ring_);
        for (auto& page : self.pages_) use(page);
        for (auto& snapshot : self.snapshots_) use(snapshot.window);
    }
    HeldBlock allocate(Backend& backend, size_t bytes, const char* purpose) const;
    std::byte** page_table() const;
    void make(Backend& backend);
    void write_table(Backend& backend) const;
    HeldBlock window_before(Backend& backend, int positions) const;
    // Copies the window before `positions` between the ring and memory where it lies packed.
    enum class Direction { kFromRing, kToRing };
    void copy_window(Backend& backend, int positions, std::byte* packed, Direction direction) const;
    void fill_ring(Backend& backend, int positions, std::byte* packed);
    int go_back(Backend& backend, int positions);
    void forget_snapshots_after(int positions);
    void thin_snapshots();

    KvGeometry geometry_;
    std::shared_ptr<KvBudget> budget_;
    int most_pages_;
    StageMemory table_;  // KvView, then its pages [most_pages_]
    HeldBlock ring_;
    std::vector<HeldBlock> pages_;
    std::deque<Snapshot> snapshots_;  // by rising position
    bool resident_ = true;
    // What the ring holds of positions below ring_end_: those from ring_begin_ on, and not more
    // than it has slots.
    int ring_begin_ = 0, ring_end_ = 0;
};

}  // namespace gptoss

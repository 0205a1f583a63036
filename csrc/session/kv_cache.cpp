#include "session/kv_cache.h"

#include <algorithm>

#include "base/error.h"

namespace gptoss {
namespace {

constexpr size_t kMostSnapshots = 16;
// Tokens computed again at most, for one snapshot fewer.
constexpr int kSnapshotDistance = 128;

}  // namespace

std::byte** KvCache::page_table() const {
    return reinterpret_cast<std::byte**>(table_.data() + sizeof(KvView));
}

size_t KvCache::bytes() const {
    size_t out = 0;
    for_each_block(*this, [&](const HeldBlock& block) { out += block->bytes(); });
    return out;
}

HeldBlock KvCache::allocate(Backend& backend, size_t bytes, const char* purpose) const {
    return HeldBlock(std::make_shared<KvBlock>(budget_, backend, bytes, purpose));
}

void KvCache::make(Backend& backend) {
    if (table_.data()) return;
    HeldBlock ring;
    if (geometry_.ring_bytes)
        ring = allocate(backend, geometry_.ring_bytes, "a session's sliding-window cache");
    table_ = backend.allocate(sizeof(KvView) + most_pages_ * sizeof(std::byte*),
                              "a session's table of pages");
    ring_ = std::move(ring);
    write_table(backend);
}

void KvCache::write_table(Backend& backend) const {
    const KvView view = {page_table(), ring_ ? ring_->data() : nullptr};
    backend.write(table_.data(), &view, sizeof(view));
    std::vector<std::byte*> addresses;
    for (const HeldBlock& page : pages_) addresses.push_back(page->data());
    if (!addresses.empty())
        backend.write(page_table(), addresses.data(), addresses.size() * sizeof(std::byte*));
}

void KvCache::reserve(Backend& backend, int begin, int end) {
    make(backend);
    if (geometry_.page_bytes) {
        const size_t first = begin / KvGeometry::kPageTokens, last = geometry_.pages(end);
        pages_.reserve(std::max(pages_.size(), last));
        for (size_t i = first; i < last; ++i) {
            const bool made = i < pages_.size();
            if (made && !pages_[i].shared()) continue;
            HeldBlock page = allocate(backend, geometry_.page_bytes, "a page of a session's cache");
            std::byte* const data = page->data();
            const bool keeps = static_cast<int>(i) * KvGeometry::kPageTokens < begin;
            if (made && keeps) backend.copy(data, pages_[i]->data(), geometry_.page_bytes);
            backend.write(page_table() + i, &data, sizeof(data));
            if (made)
                pages_[i] = std::move(page);
            else
                pages_.push_back(std::move(page));
        }
    }
    ring_end_ = std::max(ring_end_, end);
}

bool KvCache::try_reserve(Backend& backend, int begin, int end) {
    try {
        reserve(backend, begin, end);
        return true;
    } catch (const OutOfMemory&) {
        return false;
    }
}

size_t KvCache::missing(int begin, int end) const {
    size_t out = ring_ || !geometry_.ring_bytes ? 0 : geometry_.ring_bytes;
    if (geometry_.page_bytes)
        for (size_t i = begin / KvGeometry::kPageTokens; i < size_t(geometry_.pages(end)); ++i)
            if (i >= pages_.size() || pages_[i].shared()) out += geometry_.page_bytes;
    for_each_block(*this, [&](const HeldBlock& block) {
        if (!block->resident()) out += block->bytes();
    });
    return out;
}

std::unique_ptr<KvCache> KvCache::fork(Backend& backend, int positions) const {
    auto out = std::make_unique<KvCache>(geometry_, budget_, most_pages_ * KvGeometry::kPageTokens);
    if (positions == 0) return out;
    out->adopt(backend, prefix(backend, positions));
    out->snapshots_.clear();
    for (const Snapshot& snapshot : snapshots_)
        if (snapshot.positions <= positions) out->snapshots_.push_back(snapshot);
    return out;
}

KvPrefix KvCache::prefix(Backend& backend, int positions) const {
    KvPrefix out;
    out.positions = positions;
    const auto held =
        static_cast<std::ptrdiff_t>(geometry_.page_bytes ? geometry_.pages(positions) : 0);
    out.pages.assign(pages_.begin(), pages_.begin() + held);
    for (const Snapshot& snapshot : snapshots_)
        if (snapshot.positions == positions) out.window = snapshot.window;
    if (!out.window && geometry_.ring_bytes) out.window = window_before(backend, positions);
    return out;
}

void KvCache::adopt(Backend& backend, const KvPrefix& prefix) {
    std::vector<HeldBlock> pages = prefix.pages;
    make(backend);
    forget_snapshots_after(prefix.positions);
    if (prefix.window && (snapshots_.empty() || snapshots_.back().positions < prefix.positions)) {
        snapshots_.push_back({prefix.positions, prefix.window});
        thin_snapshots();
    }
    pages_.swap(pages);
    write_table(backend);
    if (prefix.window) fill_ring(backend, prefix.positions, prefix.window->data());
}

void KvCache::spill(Backend& backend) {
    if (resident_) for_each_block(*this, [](HeldBlock& block) { block.loosen(); });
    resident_ = false;
    for_each_block(*this, [&](HeldBlock& block) {
        if (block->pins() == 0) block->to_host(backend);
    });
}

bool KvCache::spillable() const {
    bool out = false;
    for_each_block(*this, [&](const HeldBlock& block) {
        out = out || (block->resident() && block->pins() == (resident_ ? 1 : 0));
    });
    return out;
}

void KvCache::restore(Backend& backend) {
    if (resident_) return;
    for_each_block(*this, [&](HeldBlock& block) { block->to_device(backend); });
    for_each_block(*this, [](HeldBlock& block) { block.pin(); });
    if (table_.data()) write_table(backend);
    resident_ = true;
}

int KvCache::pieces(int positions) const {
    const int pages = geometry_.page_bytes ? geometry_.pages(positions) : 0;
    return pages + (positions > 0 && geometry_.ring_bytes ? 1 : 0);
}

size_t KvCache::piece_bytes(int positions, int piece) const {
    const bool page = geometry_.page_bytes && piece < geometry_.pages(positions);
    return page ? geometry_.page_bytes : geometry_.window_bytes;
}

size_t KvCache::saved_bytes(int positions) const {
    size_t out = 0;
    for (int i = 0; i < pieces(positions); ++i) out += piece_bytes(positions, i);
    return out;
}

void KvCache::read_piece(Backend& backend, int positions, int piece, std::byte* out) const {
    const size_t bytes = piece_bytes(positions, piece);
    // Memory may hold what others left there; what is written down must not.
    if (geometry_.page_bytes && piece < geometry_.pages(positions)) {
        backend.read(out, pages_[piece]->data(), bytes);
        const int before = piece * KvGeometry::kPageTokens;
        geometry_.clear_page_from(out, std::min(positions - before, KvGeometry::kPageTokens));
        return;
    }
    const StageMemory window = backend.allocate(bytes, "saving a session");
    // A short session's window is not full.
    const std::vector<std::byte> zeros(bytes);
    backend.write(window.data(), zeros.data(), bytes);
    copy_window(backend, positions, window.data(), Direction::kFromRing);
    backend.read(out, window.data(), bytes);
    geometry_.clear_around_window(out, std::max(0, positions - geometry_.window), positions);
}

void KvCache::write_piece(Backend& backend, int positions, int piece, const std::byte* from) {
    if (piece == 0) reserve(backend, 0, positions);
    const size_t bytes = piece_bytes(positions, piece);
    if (geometry_.page_bytes && piece < geometry_.pages(positions)) {
        backend.write(pages_[piece]->data(), from, bytes);
        return;
    }
    const StageMemory window = backend.allocate(bytes, "loading a session");
    backend.write(window.data(), from, bytes);
    fill_ring(backend, positions, window.data());
    backend.synchronize();  // before the packed window goes
}

HeldBlock KvCache::window_before(Backend& backend, int positions) const {
    HeldBlock out = allocate(backend, geometry_.window_bytes, "a snapshot of a session");
    copy_window(backend, positions, out->data(), Direction::kFromRing);
    return out;
}

void KvCache::snapshot(Backend& backend, int positions) {
    if (!geometry_.ring_bytes || positions == 0) return;
    forget_snapshots_after(positions);
    // The first may be short, as a chat's system message is; it counts for no distance then.
    const int last = snapshots_.empty() ? 0 : snapshots_.back().positions;
    const bool alone = snapshots_.empty() || (snapshots_.size() == 1 && last < kSnapshotDistance);
    if (positions == last || (!alone && positions - last < kSnapshotDistance)) return;
    snapshots_.push_back({positions, window_before(backend, positions)});
    thin_snapshots();
}

void KvCache::forget_snapshots_after(int positions) {
    while (!snapshots_.empty() && snapshots_.back().positions > positions) snapshots_.pop_back();
}

// The one goes without which the longest way between two grows least.
void KvCache::thin_snapshots() {
    if (snapshots_.size() <= kMostSnapshots) return;
    size_t least = 0;
    int way = snapshots_[1].positions;
    for (size_t i = 1; i + 1 < snapshots_.size(); ++i) {
        const int without = snapshots_[i + 1].positions - snapshots_[i - 1].positions;
        if (without < way) {
            least = i;
            way = without;
        }
    }
    snapshots_.erase(snapshots_.begin() + static_cast<std::ptrdiff_t>(least));
}

bool KvCache::forget_snapshots() {
    const bool any = !snapshots_.empty();
    snapshots_.clear();
    return any;
}

int KvCache::rewind(Backend& backend, int positions) {
    const int back = go_back(backend, positions);
    const size_t held = geometry_.page_bytes ? geometry_.pages(back) : 0;
    if (pages_.size() > held) pages_.resize(held);
    return back;
}

int KvCache::go_back(Backend& backend, int positions) {
    if (!geometry_.ring_bytes) return positions;
    forget_snapshots_after(positions);
    const int oldest = std::max(ring_begin_, ring_end_ - geometry_.ring_slots);
    if (std::max(0, positions - geometry_.window) >= oldest) return positions;
    if (snapshots_.empty()) {
        ring_begin_ = ring_end_ = 0;
        return 0;
    }
    const Snapshot& last = snapshots_.back();
    fill_ring(backend, last.positions, last.window->data());
    return last.positions;
}

void KvCache::fill_ring(Backend& backend, int positions, std::byte* packed) {
    copy_window(backend, positions, packed, Direction::kToRing);
    ring_begin_ = std::max(0, positions - geometry_.window);
    ring_end_ = positions;
}

void KvCache::copy_window(Backend& backend, int positions, std::byte* packed,
                          Direction direction) const {
    geometry_.for_each_window_run(std::max(0, positions - geometry_.window), positions,
                                  [&](size_t in_ring, size_t bytes) {
                                      std::byte* const ring = ring_->data() + in_ring;
                                      if (direction == Direction::kFromRing)
                                          backend.copy(packed, ring, bytes);
                                      else
                                          backend.copy(ring, packed, bytes);
                                      packed += bytes;
                                  });
}

}  // namespace gptoss

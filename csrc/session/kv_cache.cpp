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
    size_t out = ring_.size() + pages_.size() * geometry_.page_bytes;
    for (const auto& snapshot : snapshots_) out += snapshot->window.size();
    return out;
}

void KvCache::make(Backend& backend) {
    if (table_.data()) return;
    StageMemory ring;
    if (geometry_.ring_bytes)
        ring = backend.allocate(geometry_.ring_bytes, "a session's sliding-window cache");
    table_ = backend.allocate(sizeof(KvView) + most_pages_ * sizeof(std::byte*),
                              "a session's table of pages");
    ring_ = std::move(ring);
    const KvView view = {page_table(), ring_.data()};
    backend.write(table_.data(), &view, sizeof(view));
}

void KvCache::reserve(Backend& backend, int begin, int end) {
    make(backend);
    if (geometry_.page_bytes) {
        const size_t first = begin / KvGeometry::kPageTokens, last = geometry_.pages(end);
        pages_.reserve(std::max(pages_.size(), last));
        for (size_t i = first; i < last; ++i) {
            const bool made = i < pages_.size();
            if (made && pages_[i].use_count() == 1) continue;
            auto page = std::make_shared<const StageMemory>(
                backend.allocate(geometry_.page_bytes, "a page of a session's cache"));
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

std::unique_ptr<KvCache> KvCache::fork(Backend& backend, int positions) const {
    auto out = std::make_unique<KvCache>(geometry_, most_pages_ * KvGeometry::kPageTokens);
    if (positions == 0) return out;
    out->make(backend);
    const auto held =
        static_cast<std::ptrdiff_t>(geometry_.page_bytes ? geometry_.pages(positions) : 0);
    out->pages_.assign(pages_.begin(), pages_.begin() + held);
    std::vector<std::byte*> addresses;
    for (const auto& page : out->pages_) addresses.push_back(page->data());
    backend.write(out->page_table(), addresses.data(), addresses.size() * sizeof(std::byte*));
    for (const auto& snapshot : snapshots_)
        if (snapshot->positions <= positions) out->snapshots_.push_back(snapshot);
    if (geometry_.ring_bytes) {
        const Snapshot now = {positions,
                              backend.allocate(geometry_.window_bytes, "a fork of a session")};
        copy_window(backend, positions, now.window.data(), Direction::kFromRing);
        out->restore(backend, now);
        backend.synchronize();  // before the packed window goes
    }
    return out;
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
    if (geometry_.page_bytes && piece < geometry_.pages(positions)) {
        backend.read(out, pages_[piece]->data(), bytes);
        return;
    }
    const StageMemory window = backend.allocate(bytes, "saving a session");
    // A short session's window is not full.
    const std::vector<std::byte> zeros(bytes);
    backend.write(window.data(), zeros.data(), bytes);
    copy_window(backend, positions, window.data(), Direction::kFromRing);
    backend.read(out, window.data(), bytes);
}

void KvCache::write_piece(Backend& backend, int positions, int piece, const std::byte* from) {
    if (piece == 0) reserve(backend, 0, positions);
    const size_t bytes = piece_bytes(positions, piece);
    if (geometry_.page_bytes && piece < geometry_.pages(positions)) {
        backend.write(pages_[piece]->data(), from, bytes);
        return;
    }
    const Snapshot now = {positions, backend.allocate(bytes, "loading a session")};
    backend.write(now.window.data(), from, bytes);
    restore(backend, now);
    backend.synchronize();  // before the packed window goes
}

void KvCache::snapshot(Backend& backend, int positions) {
    if (!geometry_.ring_bytes || positions == 0) return;
    while (!snapshots_.empty() && snapshots_.back()->positions > positions) snapshots_.pop_back();
    if (!snapshots_.empty() && positions - snapshots_.back()->positions < kSnapshotDistance) return;
    try {
        auto made = std::make_shared<Snapshot>();
        made->positions = positions;
        made->window = backend.allocate(geometry_.window_bytes, "a snapshot of a session");
        copy_window(backend, positions, made->window.data(), Direction::kFromRing);
        snapshots_.push_back(std::move(made));
    } catch (const OutOfMemory&) {
        return;
    }
    if (snapshots_.size() > kMostSnapshots) snapshots_.pop_front();
}

int KvCache::rewind(Backend& backend, int positions) {
    if (!geometry_.ring_bytes) return positions;
    while (!snapshots_.empty() && snapshots_.back()->positions > positions) snapshots_.pop_back();
    const int oldest = std::max(ring_begin_, ring_end_ - geometry_.ring_slots);
    if (std::max(0, positions - geometry_.window) >= oldest) return positions;
    if (snapshots_.empty()) {
        ring_begin_ = ring_end_ = 0;
        return 0;
    }
    restore(backend, *snapshots_.back());
    return snapshots_.back()->positions;
}

void KvCache::restore(Backend& backend, const Snapshot& from) {
    copy_window(backend, from.positions, from.window.data(), Direction::kToRing);
    ring_begin_ = std::max(0, from.positions - geometry_.window);
    ring_end_ = from.positions;
}

void KvCache::copy_window(Backend& backend, int positions, std::byte* packed,
                          Direction direction) const {
    geometry_.for_each_window_run(std::max(0, positions - geometry_.window), positions,
                                  [&](size_t in_ring, size_t bytes) {
                                      std::byte* const ring = ring_.data() + in_ring;
                                      if (direction == Direction::kFromRing)
                                          backend.copy(packed, ring, bytes);
                                      else
                                          backend.copy(ring, packed, bytes);
                                      packed += bytes;
                                  });
}

}  // namespace gptoss

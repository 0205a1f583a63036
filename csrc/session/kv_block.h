// A piece of a cache's memory: on the device while somebody needs it there, on the host while not.
//
// Who computes with a block, or keeps it at hand, holds a pin. A block that no pin holds may be
// moved to the host's memory; it comes back when it is pinned again.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace gptoss {

// Bytes of all blocks of one model's caches.
class KvBudget {
  public:
    explicit KvBudget(size_t limit_bytes);

    size_t limit() const { return limit_; }
    size_t used() const { return used_; }        // of the device's memory
    size_t spilled() const { return spilled_; }  // of the host's
    // Fill blocks that are new, and on the processor those given back, with NaN: for tests, by
    // GPTOSS_POISON_CACHE.
    bool poison() const { return poison_; }

  private:
    friend class KvBlock;
    const size_t limit_;
    const bool poison_;
    std::atomic<size_t> used_{0}, spilled_{0};
};

class KvBlock {
  public:
    // On the device, its contents undefined. Throws OutOfMemory.
    KvBlock(std::shared_ptr<KvBudget> budget, Backend& backend, size_t bytes,
            const std::string& purpose);
    ~KvBlock();
    KvBlock(const KvBlock&) = delete;
    KvBlock& operator=(const KvBlock&) = delete;

    size_t bytes() const { return bytes_; }
    bool resident() const { return device_.data(); }
    std::byte* data() const { return device_.data(); }  // null where not resident
    int pins() const { return pins_; }
    void pin();
    void unpin();
    // Move the contents. Throw OutOfMemory and leave them where they are.
    void to_host(Backend& backend);
    void to_device(Backend& backend);

    // How many cached prefixes hold it; of these each holds a pin, too. Under the engine's lock.
    int prefixes = 0;

  private:
    StageMemory take(Backend& backend, const std::string& purpose);
    void give_back();

    const std::shared_ptr<KvBudget> budget_;
    const size_t bytes_;
    const bool host_memory_;
    std::atomic<int> pins_{0};
    StageMemory device_;
    std::vector<std::byte> host_;
};

// A holder's part in a block, with a pin on it or without.
class HeldBlock {
  public:
    HeldBlock() = default;
    // Pinned.
    explicit HeldBlock(std::shared_ptr<KvBlock> block) : block_(std::move(block)) { pin(); }
    HeldBlock(const HeldBlock& other) : block_(other.block_) {
        if (other.pinned_) pin();
    }
    HeldBlock(HeldBlock&& other) noexcept
        : block_(std::move(other.block_)), pinned_(std::exchange(other.pinned_, false)) {}
    HeldBlock& operator=(HeldBlock other) noexcept {
        block_.swap(other.block_);
        std::swap(pinned_, other.pinned_);
        return *this;
    }
    ~HeldBlock() { loosen(); }

    explicit operator bool() const { return block_ != nullptr; }
    KvBlock* operator->() const { return block_.get(); }
    bool shared() const { return block_.use_count() > 1; }
    void pin() {
        if (block_ && !std::exchange(pinned_, true)) block_->pin();
    }
    void loosen() {
        if (std::exchange(pinned_, false)) block_->unpin();
    }

  private:
    std::shared_ptr<KvBlock> block_;
    bool pinned_ = false;
};

}  // namespace gptoss

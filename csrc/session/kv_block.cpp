#include "session/kv_block.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "base/error.h"

namespace gptoss {
namespace {

// NaN as fp8, float16 and float32.
constexpr auto kPoison = std::byte{0xff};

bool asked_to_poison() {
    const char* value = std::getenv("GPTOSS_POISON_CACHE");
    return value && *value && *value != '0';
}

}  // namespace

KvBudget::KvBudget(size_t limit_bytes) : limit_(limit_bytes), poison_(asked_to_poison()) {}

KvBlock::KvBlock(std::shared_ptr<KvBudget> budget, Backend& backend, size_t bytes,
                 const std::string& purpose)
    : budget_(std::move(budget)), bytes_(bytes), host_memory_(backend.traits().host_memory) {
    device_ = take(backend, purpose);
    budget_->used_ += bytes_;
}

KvBlock::~KvBlock() {
    give_back();
    budget_->spilled_ -= host_.size();
}

// Not inline: GCC 12 warns of them where a vector of blocks grows.
void KvBlock::pin() { ++pins_; }
void KvBlock::unpin() { --pins_; }

StageMemory KvBlock::take(Backend& backend, const std::string& purpose) {
    StageMemory memory = backend.allocate(bytes_, purpose);
    if (budget_->poison()) {
        const std::vector<std::byte> poison(bytes_, kPoison);
        backend.write(memory.data(), poison.data(), bytes_);
    }
    return memory;
}

void KvBlock::give_back() {
    if (!device_.data()) return;
    if (budget_->poison() && host_memory_)
        std::memset(device_.data(), std::to_integer<int>(kPoison), bytes_);
    device_ = {};
    budget_->used_ -= bytes_;
}

void KvBlock::to_host(Backend& backend) {
    if (!resident()) return;
    std::vector<std::byte> host;
    try {
        host.resize(bytes_);
    } catch (const std::bad_alloc&) {
        throw OutOfMemory(message("the process has no ", bytes_, " bytes for a part of a cache"));
    }
    backend.read(host.data(), device_.data(), bytes_);
    host_.swap(host);
    budget_->spilled_ += bytes_;
    give_back();
}

void KvBlock::to_device(Backend& backend) {
    if (resident()) return;
    StageMemory memory = take(backend, "bringing a session's cache back");
    backend.write(memory.data(), host_.data(), bytes_);
    device_ = std::move(memory);
    budget_->used_ += bytes_;
    budget_->spilled_ -= host_.size();
    std::vector<std::byte>().swap(host_);
}

}  // namespace gptoss

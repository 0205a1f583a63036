#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/float_environment.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace gptoss {
namespace {

// The parts of the gate: workers inside count from 0 to kOpen - 1, loops in steps of kLoop.
constexpr uint64_t kOpen = 4096, kLoop = 8192;
// Long enough to bridge the serial pieces between two stages, short enough not to starve a host.
constexpr auto kSpin = std::chrono::microseconds(200);

void pause() {
#ifdef __SSE2__
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

template <class Ready>
bool spin_until(Ready ready) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 64; ++i) {
            if (ready()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return ready();
}

}  // namespace

int usable_processors() {
    cpu_set_t set;
    CPU_ZERO(&set);
    int count = static_cast<int>(std::thread::hardware_concurrency());
    if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
    if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
        long long quota = 0, period = 0;  // microseconds; "max" is no number
        if (std::fscanf(file, "%lld %lld", &quota, &period) == 2 && period > 0)
            count = std::min(count, static_cast<int>((quota + period - 1) / period));
        std::fclose(file);
    }
    return std::max(count, 1);
}

ThreadPool::ThreadPool(int threads) : sleep_(std::make_unique<Sleep>()) {
    if (threads < 0 || threads > kMostThreads)
        throw InvalidArgument(message("threads is ", threads, ", wanted 1 to ", kMostThreads));
    if (threads == 0) threads = std::min(usable_processors(), kMostThreads);
    stretches_ = std::vector<Stretch>(threads);
    try {
        for (int i = 1; i < threads; ++i) sleep_->workers.emplace_back([this, i] { work(i); });
    } catch (const std::system_error& e) {
        stop();
        throw OutOfMemory(message("cannot start ", threads, " threads: ", e.what()));
    } catch (...) {
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() {
    if (home_.left())
        (void)sleep_.release();
    else
        stop();
}

void ThreadPool::stop() {
    {
        std::lock_guard lock(sleep_->mutex);
        stop_ = true;
    }
    sleep_->wake.notify_all();
    for (std::thread& worker : sleep_->workers) worker.join();
}

void ThreadPool::run_loop(int64_t count, bool in_order, Invoke invoke, void* context) {
    if (count <= 0) return;
    if (count > UINT32_MAX) throw InvalidArgument(message("a loop of ", count, " parts"));
    home_.check();
    in_order_ = in_order;
    invoke_ = invoke;
    context_ = context;
    const bool shared = count > 1 && !sleep_->workers.empty();
    const auto stretches = static_cast<int64_t>(stretches_.size());
    const int64_t used = in_order || !shared ? 1 : stretches;
    for (int64_t i = 0; i < stretches; ++i) {
        const uint64_t begin = i < used ? i * count / used : 0;
        const uint64_t end = i < used ? (i + 1) * count / used : 0;
        stretches_[i].left.store(begin << 32 | end, std::memory_order_relaxed);
    }
    if (shared) {
        const uint64_t loop = gate_.load(std::memory_order_relaxed) / kLoop + 1;
        gate_.store(loop * kLoop + kOpen, std::memory_order_release);
        std::lock_guard lock(sleep_->mutex);
        if (sleep_->sleeping > 0) sleep_->wake.notify_all();
    }
    take_indices(0);
    if (shared) {
        gate_.fetch_and(~kOpen, std::memory_order_relaxed);
        // Those inside are at their last index: a short wait, unless the system took their core.
        const auto inside = [&] { return gate_.load(std::memory_order_acquire) % kOpen != 0; };
        for (int spins = 0; inside(); ++spins) spins < 10000 ? pause() : std::this_thread::yield();
    }
    if (sleep_->failure) {
        std::exception_ptr failure = std::exchange(sleep_->failure, nullptr);
        std::rethrow_exception(failure);
    }
}

// -1: none is left.
int64_t ThreadPool::take(int thread) {
    const size_t stretches = stretches_.size(), own = in_order_ ? 0 : thread;
    for (size_t i = 0; i < stretches; ++i) {
        std::atomic<uint64_t>& left = stretches_[(own + i) % stretches].left;
        uint64_t now = left.load(std::memory_order_relaxed);
        while (now >> 32 < (now & UINT32_MAX)) {
            const uint64_t taken = i == 0 ? now + (uint64_t{1} << 32) : now - 1;
            if (left.compare_exchange_weak(now, taken, std::memory_order_relaxed))
                return static_cast<int64_t>(i == 0 ? now >> 32 : taken & UINT32_MAX);
        }
    }
    return -1;
}

void ThreadPool::take_indices(int thread) {
    const DefaultFloatEnvironment environment;
    try {
        for (int64_t index; (index = take(thread)) >= 0;) invoke_(context_, index, thread);
    } catch (...) {
        for (Stretch& stretch : stretches_) stretch.left.store(0, std::memory_order_relaxed);
        std::lock_guard lock(sleep_->mutex);
        if (!sleep_->failure) sleep_->failure = std::current_exception();
    }
}

// True if there is a loop later than `seen` that still may be joined, and this worker is inside.
bool ThreadPool::join_loop(uint64_t& seen) {
    uint64_t gate = gate_.load(std::memory_order_acquire);
    while (gate / kLoop != seen) {
        if (!(gate & kOpen)) {
            seen = gate / kLoop;
            return false;
        }
        if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) {
            seen = gate / kLoop;
            return true;
        }
    }
    return false;
}

void ThreadPool::work(int thread) {
    uint64_t seen = 0;
    const auto ready = [&] {
        return gate_.load(std::memory_order_relaxed) / kLoop != seen || stop_.load();
    };
    for (;;) {
        if (!spin_until(ready)) {
            std::unique_lock lock(sleep_->mutex);
            ++sleep_->sleeping;
            sleep_->wake.wait(lock, ready);
            --sleep_->sleeping;
        }
        if (stop_.load()) return;
        if (!join_loop(seen)) continue;
        take_indices(thread);
        gate_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace gptoss

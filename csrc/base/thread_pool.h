// A fixed set of threads that run one indexed loop at a time.
//
// The project's own, so that embedding beside another OpenMP runtime does not oversubscribe. Which
// thread runs which index is left open: a loop body must write only what its index owns, and then
// no result depends on the number of threads. Workers spin briefly between loops, because the
// stages of a decode step follow each other within microseconds, and then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/process.h"

namespace gptoss {

constexpr int kMostThreads = 1024;

class ThreadPool {
  public:
    // `threads` counts the calling thread; 0 takes one for each processor this process may use.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return static_cast<int>(sleep_->workers.size()) + 1; }

    // Calls body(index, thread) for every index in [0, count), count under 2**32, thread in
    // [0, threads()), and waits. The caller is thread 0. Each thread walks through a stretch of its
    // own, so that what neighbouring indices read is one stream, then takes the last of others'.
    // The first exception stops the handing out and is thrown again here. Every index runs under
    // the default floating-point environment. One loop at a time. Throws DeviceError in a process
    // forked after the pool was made: its threads did not come along.
    template <class Body>
    void run(int64_t count, Body&& body) {
        run_body(count, false, body);
    }

    // The same with rising indices: none begins before all lower ones have begun.
    template <class Body>
    void run_in_order(int64_t count, Body&& body) {
        run_body(count, true, body);
    }

  private:
    using Invoke = void (*)(void* context, int64_t index, int thread);

    template <class Body>
    void run_body(int64_t count, bool in_order, Body& body) {
        run_loop(
            count, in_order,
            [](void* context, int64_t index, int thread) {
                (*static_cast<Body*>(context))(index, thread);
            },
            const_cast<void*>(static_cast<const void*>(&body)));
    }
    void run_loop(int64_t count, bool in_order, Invoke invoke, void* context);
    void stop();
    void work(int thread);
    bool join_loop(uint64_t& seen);
    void take_indices(int thread);
    int64_t take(int thread);

    // What threads wait on. Left alone in a forked child: destroying a condition variable waits for
    // waiters that are no more.
    struct Sleep {
        std::mutex mutex;
        std::condition_variable wake;
        std::vector<std::thread> workers;
        int sleeping = 0;            // under mutex
        std::exception_ptr failure;  // under mutex
    };

    const HomeProcess home_;
    std::unique_ptr<Sleep> sleep_;
    // The number of the loop, a bit that says it may be joined, and how many workers are inside.
    // The caller waits for those inside alone: one that the system has taken off its core before
    // it joined costs nothing.
    alignas(64) std::atomic<uint64_t> gate_{0};
    std::atomic<bool> stop_{false};
    // Indices not yet taken, of each thread: the first above, one past the last below.
    struct alignas(64) Stretch {
        std::atomic<uint64_t> left{0};
    };
    std::vector<Stretch> stretches_;
    bool in_order_ = false;  // all take from the front of the first
    Invoke invoke_ = nullptr;
    void* context_ = nullptr;
};

// Processors this process may use: its affinity mask, less where a control group allows fewer.
int usable_processors();

}  // namespace gptoss

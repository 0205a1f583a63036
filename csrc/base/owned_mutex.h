// A mutex that knows whether the thread that asks has it already.
//
// Between two steps a caller's signal handler may run, with locks held, and use the same session or
// model. That must be an answer, not a deadlock.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/process.h"

namespace gptoss {

class OwnedMutex {
  public:
    class Lock {
      public:
        template <class... How>
        explicit Lock(OwnedMutex& mutex, How... how) : mutex_(mutex), lock_(mutex.mutex_, how...) {
            if (lock_) mutex_.owner_ = std::this_thread::get_id();
        }
        ~Lock() {
            if (lock_) mutex_.owner_ = std::thread::id();
        }
        Lock(Lock&&) = default;
        Lock& operator=(Lock&&) = delete;
        explicit operator bool() const { return lock_.owns_lock(); }

      private:
        OwnedMutex& mutex_;
        std::unique_lock<std::mutex> lock_;
    };

    bool mine() const { return owner_ == std::this_thread::get_id(); }
    // Throws InvalidArgument where this thread has it, DeviceError in a forked child, where a
    // thread that is no more may have it.
    void check() const {
        home_.check();
        if (mine()) refuse();
    }
    [[noreturn]] static void refuse() {
        throw InvalidArgument(
            "called from within a step of this thread, by a signal handler "
            "or a callback; use another thread, or wait for the step's end");
    }
    // Throw what check() does.
    Lock lock() {
        check();
        return Lock(*this);
    }
    // The same without waiting; the lock says whether it was had.
    Lock try_lock() {
        check();
        return Lock(*this, std::try_to_lock);
    }
    const HomeProcess& home() const { return home_; }

  private:
    const HomeProcess home_;
    std::mutex mutex_;
    std::atomic<std::thread::id> owner_{};
};

}  // namespace gptoss

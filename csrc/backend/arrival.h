// Weights on their way into a placed model, on a thread of their own: who needs a part waits for
// it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/process.h"

namespace gptoss {

class Arrival {
  public:
    // `parts` of a model, in the order in which a step needs them.
    explicit Arrival(int parts);
    ~Arrival() { end(); }
    Arrival(const Arrival&) = delete;
    Arrival& operator=(const Arrival&) = delete;

    // A piece of a part is to come; before begin().
    void expect(int part, uint64_t bytes);
    // Calls `load` on a thread; what it throws is thrown by every wait for what is not there.
    void begin(std::function<void()> load);
    // By the loading: such a piece is there. Throws after stop().
    void arrived(int part, uint64_t bytes);

    // Waits until all parts up to this one are there. `pause` is called now and then, and may
    // throw. Throws InvalidArgument after stop(), DeviceError in a forked child.
    void wait(int part, const std::function<void()>& pause) const;
    void wait(const std::function<void()>& pause) const { wait(parts_ - 1, pause); }
    // Of the bytes to come, those that are there, from 0 to 1.
    double share() const;

    // Lets the loading end at its next piece, and every wait at once.
    void stop();
    // The same, and waits for the loading's end.
    void end();

  private:
    // Left alone in a forked child, whose memory has no thread behind it.
    struct Shared {
        std::mutex mutex;
        std::condition_variable changed;
        std::vector<int> left;       // pieces of each part, under mutex
        std::exception_ptr failure;  // under mutex
        std::thread thread;
    };

    const HomeProcess home_;
    const int parts_;
    std::unique_ptr<Shared> shared_;
    std::atomic<int> there_{0};  // leading parts that are whole
    std::atomic<bool> stopped_{false};
    uint64_t total_ = 0;
    std::atomic<uint64_t> done_{0};
};

}  // namespace gptoss

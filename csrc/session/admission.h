// Who may go on, with how much memory for caches, and who comes first.
//
// A call or a stream has a reservation while it goes on: it is one of a bounded number, and the
// memory that its plan still lacks is promised to it. Who gets none waits in a line of bounded
// length, by priority and age. A reservation may be revoked for one that comes before it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/process.h"

namespace gptoss {

struct EngineLimits {
    size_t kv_bytes = size_t{1} << 40;  // of the device's memory, for all caches
    size_t prefix_bytes = 0;            // of those, for prefixes that no session needs now
    int streams = 256;                  // calls and streams that go on at a time
    int waiting = 128;                  // calls and streams that wait to
};

class Reservation {
  public:
    Reservation(const void* who, int priority) : who_(who), priority_(priority) {}
    const void* who() const { return who_; }  // the session
    int priority() const { return priority_; }

  private:
    friend class Admission;
    const void* const who_;
    const int priority_;
    // Under the admission's mutex:
    uint64_t order_ = 0;   // age, from the first attempt on
    size_t promised_ = 0;  // bytes
    bool active_ = false;
    bool began_ = false;      // has been active before
    bool streaming_ = false;  // tokens are waited for one by one
    bool busy_ = false;       // within a call; a stream is idle between two tokens
    bool give_way_ = false;   // its session is to leave the device, and will look here
    std::chrono::steady_clock::time_point last_;  // when it was busy last
};

class Admission {
  public:
    explicit Admission(const EngineLimits& limits) : limits_(limits) {}

    // A place in the line, for this object's life.
    class Place {
      public:
        Place(Admission& line, Reservation& reservation) : line_(line), mine_(reservation) {}
        ~Place() { leave(); }
        // Throws EngineBusy if the line is full.
        void enter();
        void leave();

      private:
        Admission& line_;
        Reservation& mine_;
        bool in_line_ = false;
    };

    // Whether nobody in the line comes before it.
    bool next(Reservation& reservation);
    // Makes it one of those that go on, without memory; an idle one or one that comes after it
    // loses its place where that is needed. False if there is none.
    bool activate(Reservation& reservation);
    // Bytes promised to it, instead of those before, which it returns.
    size_t promise(Reservation& reservation, size_t bytes);
    size_t promised() const;
    bool active(const Reservation& reservation) const;
    void set_busy(Reservation& reservation, bool busy);
    // It is a stream that has begun to give tokens.
    void set_streaming(Reservation& reservation);
    // Whether another session than `who` has such a stream that goes on and is read.
    bool others_stream(const void* who) const;
    // It has ended, and others may go on. Does nothing in a forked child.
    void release(Reservation& reservation);
    // Takes its right away from the youngest of the least priority among those that come after
    // `than`, or that nobody has read for a while; not before the one revoked last has left the
    // device. False if there is none.
    bool revoke_one(const Reservation& than);
    // Asks those that wait in the line to leave the device.
    void ask_to_give_way(const Reservation& unless);
    // Whether it was asked to, and has not yet.
    bool to_give_way(const Reservation& reservation) const;
    void gave_way(Reservation& reservation);

    void wait(std::chrono::milliseconds most);
    struct Counts {
        int active = 0, waiting = 0;
    };
    Counts counts() const;

  private:
    static bool before(const Reservation& a, const Reservation& b);
    bool idle(const Reservation& reservation) const;
    void deactivate(Reservation& reservation);
    bool revoke(const Reservation& than);
    void age(Reservation& reservation);

    const EngineLimits limits_;
    const HomeProcess home_;  // in a forked child the mutex may be had by nobody
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    uint64_t next_order_ = 1;
    size_t promised_ = 0;
    std::vector<Reservation*> active_, line_;
    std::vector<Reservation*> leaving_;  // revoked within a call
};

}  // namespace gptoss

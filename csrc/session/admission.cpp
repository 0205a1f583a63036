#include "session/admission.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace gptoss {
namespace {

// A stream that nobody has read for so long gives way to one that somebody does.
constexpr auto kIdle = std::chrono::seconds(1);

}  // namespace

bool Admission::before(const Reservation& a, const Reservation& b) {
    if (a.priority_ != b.priority_) return a.priority_ > b.priority_;
    return a.order_ < b.order_;
}

bool Admission::idle(const Reservation& r) const {
    return !r.busy_ && std::chrono::steady_clock::now() - r.last_ > kIdle;
}

void Admission::age(Reservation& r) {
    if (r.order_ == 0) r.order_ = next_order_++;
}

void Admission::Place::enter() {
    if (in_line_) return;
    std::lock_guard lock(line_.mutex_);
    // One that was revoked, or goes on already, is no new one.
    if (!mine_.began_ && static_cast<int>(line_.line_.size()) >= line_.limits_.waiting)
        throw EngineBusy(message(line_.active_.size(), " calls and streams go on and ",
                                 line_.line_.size(), " wait, which is the limit; try again later"));
    line_.line_.push_back(&mine_);
    in_line_ = true;
}

void Admission::Place::leave() {
    if (!std::exchange(in_line_, false)) return;
    std::lock_guard lock(line_.mutex_);
    std::erase(line_.line_, &mine_);
    line_.changed_.notify_all();
}

bool Admission::next(Reservation& r) {
    std::lock_guard lock(mutex_);
    age(r);
    return std::none_of(line_.begin(), line_.end(),
                        [&](const Reservation* other) { return before(*other, r); });
}

bool Admission::activate(Reservation& r) {
    std::lock_guard lock(mutex_);
    age(r);
    if (r.active_) return true;
    while (static_cast<int>(active_.size()) >= limits_.streams)
        if (!revoke(r)) return false;
    active_.push_back(&r);
    r.active_ = r.busy_ = r.began_ = true;
    r.give_way_ = false;
    std::erase(leaving_, &r);
    return true;
}

size_t Admission::promise(Reservation& r, size_t bytes) {
    std::lock_guard lock(mutex_);
    if (!r.active_) return 0;
    promised_ += bytes - r.promised_;
    return std::exchange(r.promised_, bytes);
}

size_t Admission::promised() const {
    std::lock_guard lock(mutex_);
    return promised_;
}

bool Admission::active(const Reservation& r) const {
    std::lock_guard lock(mutex_);
    return r.active_;
}

void Admission::set_busy(Reservation& r, bool busy) {
    std::lock_guard lock(mutex_);
    r.busy_ = busy;
    r.last_ = std::chrono::steady_clock::now();
    // What it has left on the device others may take off it themselves now.
    if (!busy) std::erase(leaving_, &r);
}

void Admission::set_streaming(Reservation& r) {
    std::lock_guard lock(mutex_);
    r.streaming_ = true;
}

bool Admission::others_stream(const void* who) const {
    std::lock_guard lock(mutex_);
    return std::any_of(active_.begin(), active_.end(), [&](const Reservation* r) {
        return r->streaming_ && r->who_ != who && !idle(*r);
    });
}

void Admission::deactivate(Reservation& r) {
    if (!r.active_) return;
    promised_ -= r.promised_;
    r.promised_ = 0;
    r.active_ = false;
    std::erase(active_, &r);
    changed_.notify_all();
}

void Admission::release(Reservation& r) {
    if (home_.left()) return;
    std::lock_guard lock(mutex_);
    deactivate(r);
    std::erase(leaving_, &r);
}

bool Admission::revoke(const Reservation& than) {
    Reservation* last = nullptr;
    for (Reservation* r : active_) {
        if (r == &than || !(before(than, *r) || idle(*r))) continue;
        if (!last || (idle(*r) && !idle(*last)) || (idle(*r) == idle(*last) && before(*last, *r)))
            last = r;
    }
    if (!last) return false;
    deactivate(*last);
    if (last->busy_) {
        last->give_way_ = true;
        leaving_.push_back(last);
    }
    return true;
}

bool Admission::revoke_one(const Reservation& than) {
    std::lock_guard lock(mutex_);
    return leaving_.empty() && revoke(than);
}

void Admission::ask_to_give_way(const Reservation& unless) {
    std::lock_guard lock(mutex_);
    for (Reservation* r : line_)
        if (r != &unless && !r->active_) r->give_way_ = true;
    changed_.notify_all();
}

bool Admission::to_give_way(const Reservation& r) const {
    std::lock_guard lock(mutex_);
    return r.give_way_;
}

void Admission::gave_way(Reservation& r) {
    std::lock_guard lock(mutex_);
    std::erase(leaving_, &r);
    r.give_way_ = false;
}

void Admission::wait(std::chrono::milliseconds most) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, most);
}

Admission::Counts Admission::counts() const {
    std::lock_guard lock(mutex_);
    return {static_cast<int>(active_.size()), static_cast<int>(line_.size())};
}

}  // namespace gptoss

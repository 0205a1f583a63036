#include "backend/arrival.h"

#include <chrono>
#include <utility>

#include "base/error.h"

namespace gptoss {
namespace {

constexpr auto kPause = std::chrono::milliseconds(20);

[[noreturn]] void refuse() { throw InvalidArgument("the model is closed"); }

}  // namespace

Arrival::Arrival(int parts) : parts_(parts), shared_(std::make_unique<Shared>()) {
    shared_->left.resize(parts);
}

void Arrival::expect(int part, uint64_t bytes) {
    ++shared_->left[part];
    total_ += bytes;
}

void Arrival::begin(std::function<void()> load) {
    try {
        shared_->thread = std::thread([this, load = std::move(load)] {
            try {
                load();
            } catch (...) {
                std::lock_guard lock(shared_->mutex);
                shared_->failure = std::current_exception();
            }
            shared_->changed.notify_all();
        });
    } catch (const std::system_error& e) {
        throw OutOfMemory(message("cannot start a thread to load with: ", e.what()));
    }
}

void Arrival::arrived(int part, uint64_t bytes) {
    if (stopped_) refuse();
    done_ += bytes;
    std::lock_guard lock(shared_->mutex);
    if (--shared_->left[part] > 0) return;
    int there = there_;
    while (there < parts_ && shared_->left[there] == 0) ++there;
    if (there == there_) return;
    there_ = there;
    shared_->changed.notify_all();
}

void Arrival::wait(int part, const std::function<void()>& pause) const {
    if (there_ > part) return;
    home_.check();
    std::unique_lock lock(shared_->mutex);
    while (there_ <= part) {
        if (stopped_) refuse();
        if (shared_->failure) std::rethrow_exception(shared_->failure);
        shared_->changed.wait_for(lock, kPause);
        if (!pause) continue;
        lock.unlock();
        pause();
        lock.lock();
    }
}

double Arrival::share() const {
    return total_ == 0 || there_ == parts_ ? 1.0 : static_cast<double>(done_) / total_;
}

void Arrival::stop() {
    if (home_.left()) return;
    std::lock_guard lock(shared_->mutex);
    stopped_ = true;
    shared_->changed.notify_all();
}

void Arrival::end() {
    if (!shared_) return;
    if (home_.left()) {
        (void)shared_.release();
        return;
    }
    stop();
    if (shared_->thread.joinable()) shared_->thread.join();
}

}  // namespace gptoss

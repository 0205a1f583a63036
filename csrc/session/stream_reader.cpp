#include "session/stream_reader.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <system_error>
#include <thread>

#include "base/error.h"

namespace gptoss {
namespace {

// One for each stream that waits at a time, for its token or its turn: as many as the limits of two
// models may let wait.
constexpr int kMostThreads = 16384;

}  // namespace

// Outlives its reader while streams are read for it.
struct StreamReader::Done {
    Done() : descriptor(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
        if (descriptor < 0)
            throw Error(message("no descriptor for streams of an event loop: ",
                                std::system_category().message(errno)));
    }
    ~Done() { ::close(descriptor); }
    void add(ReadToken token) {
        std::lock_guard lock(mutex);
        tokens.push_back(std::move(token));
        if (tokens.size() > 1) return;  // the loop is told already
        const uint64_t one = 1;
        // Only a counter of 2**64 could refuse.
        [[maybe_unused]] const auto written = ::write(descriptor, &one, sizeof(one));
    }

    const int descriptor;
    std::mutex mutex;
    std::vector<ReadToken> tokens;
};

namespace {

struct Job {
    std::shared_ptr<Generation> stream;
    std::shared_ptr<const Constraint> constraint;  // may be null
    std::function<void(ReadToken)> add;
    uint64_t key;
};

// The process's reading threads. They sleep when there is nothing to read, and are never joined: a
// forked child has none of them, and makes its own.
class Readers {
  public:
    static Readers& of_this_process() {
        static std::mutex mutex;
        static Readers* readers = nullptr;
        static pid_t owner = 0;
        std::lock_guard lock(mutex);
        if (owner != ::getpid()) {
            readers = new Readers;  // and never freed: threads may still look at it
            owner = ::getpid();
        }
        return *readers;
    }

    void begin(Job job) {
        std::unique_lock lock(mutex_);
        if (ended_) throw Error("the process is ending");
        if (jobs_.size() >= static_cast<size_t>(idle_) && threads_ < kMostThreads) add_thread();
        jobs_.push_back(std::move(job));
        // Who is woken wakes the next: the event loop has more to do. It needs the lock at once.
        const bool alone = jobs_.size() == 1;
        lock.unlock();
        if (alone) wake_.notify_one();
    }

    void end() {
        std::unique_lock lock(mutex_);
        ended_ = true;
        for (const Job& job : jobs_) job.stream->cancel();
        for (Generation* stream : running_) stream->cancel();
        stopped_.wait(lock, [&] { return jobs_.empty() && running_.empty(); });
    }

  private:
    void add_thread() {
        try {
            std::thread([this] { work(); }).detach();
            ++threads_;
        } catch (const std::system_error& error) {
            if (threads_ == 0) throw Error(message("no thread to read streams: ", error.what()));
        }
    }

    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            ++idle_;
            wake_.wait(lock, [&] { return !jobs_.empty(); });
            --idle_;
            Job job = std::move(jobs_.front());
            jobs_.pop_front();
            running_.push_back(job.stream.get());
            const bool more = !jobs_.empty();
            lock.unlock();
            if (more) wake_.notify_one();
            read(job);
            lock.lock();
            running_.erase(std::find(running_.begin(), running_.end(), job.stream.get()));
            stopped_.notify_all();
            lock.unlock();
            job = {};  // may be the stream's last holder
            lock.lock();
        }
    }

    static void read(Job& job) {
        ReadToken out;
        out.key = job.key;
        try {
            out.token = job.stream->next(nullptr, job.constraint.get());
        } catch (...) {
            out.failure = std::current_exception();
        }
        out.stream = job.stream;
        // Whoever takes the token has Python's lock, and lets go of what is Python's.
        out.constraint = std::move(job.constraint);
        job.add(std::move(out));
    }

    std::mutex mutex_;
    std::condition_variable wake_, stopped_;
    std::deque<Job> jobs_;
    std::vector<Generation*> running_;
    int threads_ = 0, idle_ = 0;
    bool ended_ = false;
};

}  // namespace

StreamReader::StreamReader() : done_(std::make_shared<Done>()) {}
StreamReader::~StreamReader() = default;

int StreamReader::descriptor() const { return done_->descriptor; }

void StreamReader::begin(std::shared_ptr<Generation> stream, uint64_t key,
                         std::shared_ptr<const Constraint> constraint) {
    Readers::of_this_process().begin(
        {std::move(stream), std::move(constraint),
         [done = done_](ReadToken token) { done->add(std::move(token)); }, key});
}

std::vector<ReadToken> StreamReader::take() {
    std::lock_guard lock(done_->mutex);
    uint64_t count = 0;
    // Empty where an earlier call has taken what this one was told of.
    [[maybe_unused]] const auto got = ::read(done_->descriptor, &count, sizeof(count));
    return std::exchange(done_->tokens, {});
}

void StreamReader::end_all() { Readers::of_this_process().end(); }

}  // namespace gptoss

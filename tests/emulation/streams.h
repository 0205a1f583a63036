// Streams, events and captured graphs. Work waits in queues and runs only when a call waits for
// it, which shows host code that reads a result, or reuses a source, too early.
//
// Blocking streams share the null stream's queue: one of the orders that CUDA allows.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "emulation/runtime_api.h"

#pragma GCC visibility push(hidden)

namespace gptoss::emulation {

using Work = std::function<void()>;

struct Queue {
    std::deque<Work> work;
    uint64_t pushed = 0, done = 0;
};

struct Capture {
    std::vector<Work> work;
    cudaStream_t origin;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool invalid = false;
};

// To a stream's queue or its capture; null is the null stream.
void enqueue(cudaStream_t stream, Work work);
// Runs the queue's work up to that position, unless the device is lost: then it is dropped.
void run(Queue& queue, uint64_t position);
void run_everything();
// Ends it for every stream that takes part.
void end_capture(const Capture& capture);
// False where a capture forbids this thread what might wait for the device.
bool may_block_capture();

}  // namespace gptoss::emulation

struct CUstream_st {
    std::shared_ptr<gptoss::emulation::Queue> queue;
    std::shared_ptr<gptoss::emulation::Capture> capture;
};

struct CUevent_st {
    bool timed;
    // Of the latest record: where, and when it ran.
    std::shared_ptr<gptoss::emulation::Queue> queue;
    uint64_t position = 0;
    std::shared_ptr<std::chrono::steady_clock::time_point> time;
    std::weak_ptr<gptoss::emulation::Capture> capture;
    bool in_capture = false;
};

struct CUgraph_st {
    std::shared_ptr<const std::vector<gptoss::emulation::Work>> work;
};

struct CUgraphExec_st {
    std::shared_ptr<const std::vector<gptoss::emulation::Work>> work;
};

#pragma GCC visibility pop

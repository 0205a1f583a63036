// Streams and events. See streams.h.
#include "emulation/streams.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <utility>

#include "emulation/device.h"

namespace gptoss::emulation {

namespace {

// Never destroyed: host code may release streams very late. The null stream's queue is first.
std::vector<std::shared_ptr<Queue>>& queues() {
    static auto* all = new std::vector<std::shared_ptr<Queue>>{std::make_shared<Queue>()};
    return *all;
}

std::set<cudaStream_t>& streams() {
    static auto* all = new std::set<cudaStream_t>;
    return *all;
}

const std::shared_ptr<Queue>& queue_of(cudaStream_t stream) {
    return stream != nullptr ? stream->queue : queues().front();
}

// Destroyed streams whose work is done.
void drop_idle_queues() {
    std::erase_if(queues(), [](const std::shared_ptr<Queue>& queue) {
        return queue != queues().front() && queue.use_count() == 1 && queue->work.empty();
    });
}

cudaError_t record(cudaEvent_t event, cudaStream_t stream) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream != nullptr && stream->capture) {
        event->capture = stream->capture;
        event->in_capture = true;
        return cudaSuccess;
    }
    const auto time = std::make_shared<std::chrono::steady_clock::time_point>();
    enqueue(stream, [time] { *time = std::chrono::steady_clock::now(); });
    event->in_capture = false;
    event->queue = queue_of(stream);
    event->position = event->queue->pushed;
    event->time = time;
    return cudaSuccess;
}

// A stream that waits for a captured event joins that capture.
cudaError_t wait_for_captured(cudaStream_t stream, cudaEvent_t event) {
    const auto capture = event->capture.lock();
    if (!capture) return cudaErrorCapturedEvent;
    if (stream == nullptr) return cudaErrorStreamCaptureImplicit;
    if (stream->capture && stream->capture != capture) return cudaErrorStreamCaptureIsolation;
    stream->capture = capture;
    return cudaSuccess;
}

cudaError_t finish(Queue& queue) {
    run(queue, queue.pushed);
    return device().lost;
}

cudaError_t create_stream(cudaStream_t* stream, unsigned flags) {
    return call([&] {
        if (flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
        auto queue = queues().front();
        if (flags == cudaStreamNonBlocking) {
            queue = std::make_shared<Queue>();
            queues().push_back(queue);
        }
        *stream = new CUstream_st{std::move(queue), nullptr};
        streams().insert(*stream);
        return cudaSuccess;
    });
}

cudaError_t finish_event(cudaEvent_t event) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->in_capture) return cudaErrorCapturedEvent;
    if (event->queue) run(*event->queue, event->position);
    return device().lost;
}

}  // namespace

void enqueue(cudaStream_t stream, Work work) {
    if (stream != nullptr && stream->capture) {
        stream->capture->work.push_back(std::move(work));
        return;
    }
    Queue& queue = *queue_of(stream);
    queue.work.push_back(std::move(work));
    ++queue.pushed;
}

void run(Queue& queue, uint64_t position) {
    while (queue.done < position) {
        const Work work = std::move(queue.work.front());
        queue.work.pop_front();
        if (device().lost == cudaSuccess) work();
        ++queue.done;
    }
}

void run_everything() {
    // Running never makes queues, only calls of the host do.
    for (const auto& queue : queues()) run(*queue, queue->pushed);
    drop_idle_queues();
}

bool may_block_capture() {
    const auto forbids = [](cudaStream_t stream) {
        if (!stream->capture) return false;
        const auto mode = stream->capture->mode;
        const bool applies = mode == cudaStreamCaptureModeGlobal ||
                             (mode == cudaStreamCaptureModeThreadLocal &&
                              stream->capture->thread == std::this_thread::get_id());
        if (applies) stream->capture->invalid = true;
        return applies;
    };
    return std::count_if(streams().begin(), streams().end(), forbids) == 0;
}

void end_capture(const Capture& capture) {
    for (cudaStream_t stream : streams()) {
        if (stream->capture.get() == &capture && stream != capture.origin) stream->capture.reset();
    }
    capture.origin->capture.reset();
}

}  // namespace gptoss::emulation

using namespace gptoss::emulation;

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return create_stream(stream, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return create_stream(stream, flags);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
    return create_stream(stream, flags);
}

// What is queued still runs, later.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard lock(device().mutex);
    if (streams().erase(stream) == 0) return remember(cudaErrorInvalidResourceHandle);
    delete stream;
    return remember(device_state());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return call([&] {
        if (stream != nullptr && stream->capture) {
            stream->capture->invalid = true;
            return cudaErrorStreamCaptureUnsupported;
        }
        return finish(*queue_of(stream));
    });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaDeviceSynchronize() {
    return call([] {
        const auto capturing = [](cudaStream_t stream) { return stream->capture != nullptr; };
        const auto found = std::find_if(streams().begin(), streams().end(), capturing);
        if (found != streams().end()) {
            (*found)->capture->invalid = true;
            return cudaErrorStreamCaptureUnsupported;
        }
        run_everything();
        return device().lost;
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    return call([&] {
        if (event == nullptr) return cudaErrorInvalidResourceHandle;
        if (event->in_capture) return wait_for_captured(stream, event);
        if (stream != nullptr && stream->capture) return cudaErrorStreamCaptureIsolation;
        if (event->queue && event->queue != queue_of(stream)) {
            enqueue(stream,
                    [queue = event->queue, position = event->position] { run(*queue, position); });
        }
        return cudaSuccess;
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void*), void* data) {
    return call([&] {
        enqueue(stream, [function, data] { function(data); });
        return cudaSuccess;
    });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    return call([&] {
        *event = new CUevent_st{};
        (*event)->timed = (flags & cudaEventDisableTiming) == 0;
        return cudaSuccess;
    });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const std::lock_guard lock(device().mutex);
    delete event;
    return remember(device_state());
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return call([&] { return record(event, stream); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return call([&] { return finish_event(event); });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    return call([&] { return finish_event(event); });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
    return call([&] {
        if (!start->time || !stop->time || !start->timed || !stop->timed) {
            return cudaErrorInvalidResourceHandle;
        }
        for (cudaEvent_t event : {start, stop}) {
            if (event->queue->done < event->position) return cudaErrorNotReady;
        }
        *milliseconds =
            std::chrono::duration<float, std::milli>(*stop->time - *start->time).count();
        return cudaSuccess;
    });
}

// Captured graphs: the list of work in the order of capture.
#include <mutex>
#include <utility>

#include "emulation/device.h"
#include "emulation/streams.h"

using namespace gptoss::emulation;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return call([&] {
        if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
        if (stream->capture) return cudaErrorIllegalState;
        stream->capture = std::make_shared<Capture>();
        stream->capture->origin = stream;
        stream->capture->mode = mode;
        stream->capture->thread = std::this_thread::get_id();
        return cudaSuccess;
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    *graph = nullptr;
    return call([&] {
        if (stream == nullptr || !stream->capture || stream->capture->origin != stream) {
            return cudaErrorIllegalState;
        }
        const auto capture = stream->capture;
        end_capture(*capture);
        if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
        *graph =
            new CUgraph_st{std::make_shared<const std::vector<Work>>(std::move(capture->work))};
        return cudaSuccess;
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return call([&] {
        *status = cudaStreamCaptureStatusNone;
        if (stream != nullptr && stream->capture) {
            *status = stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                               : cudaStreamCaptureStatusActive;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
    *exec = nullptr;
    return call([&] {
        if (graph == nullptr) return cudaErrorInvalidValue;
        *exec = new CUgraphExec_st{graph->work};
        return cudaSuccess;
    });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t) {
    return call([&] { return exec != nullptr ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    return call([&] {
        if (exec == nullptr) return cudaErrorInvalidValue;
        for (const Work& work : *exec->work) enqueue(stream, work);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const std::lock_guard lock(device().mutex);
    delete graph;
    return remember(device_state());
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    const std::lock_guard lock(device().mutex);
    delete exec;
    return remember(device_state());
}

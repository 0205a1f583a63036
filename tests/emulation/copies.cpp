// Copies and fills. Both ends are checked when the call is made, as far as the device's memory
// is concerned; the bytes move when the stream runs.
#include <cstring>

#include "emulation/device.h"
#include "emulation/streams.h"

namespace gptoss::emulation {

namespace {

struct Copy {
    std::byte* to;
    const std::byte* from;
    size_t to_pitch, from_pitch, width_bytes, rows;

    void operator()() const {
        for (size_t row = 0; row < rows; ++row) {
            std::memcpy(to + row * to_pitch, from + row * from_pitch, width_bytes);
        }
    }
};

bool on_device(const void* p, size_t pitch, const Copy& copy) {
    return is_device_range(p, (copy.rows - 1) * pitch + copy.width_bytes);
}

cudaError_t check(const Copy& copy, cudaMemcpyKind kind) {
    if (copy.rows == 0 || copy.width_bytes == 0) return cudaSuccess;
    if (copy.to == nullptr || copy.from == nullptr) return cudaErrorInvalidValue;
    if (copy.to_pitch < copy.width_bytes || copy.from_pitch < copy.width_bytes) {
        return cudaErrorInvalidValue;
    }
    const bool to_device = touches_device(copy.to), from_device = touches_device(copy.from);
    if (kind != cudaMemcpyDefault) {
        const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
        const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
        if (to_device != wants_to || from_device != wants_from) return cudaErrorInvalidValue;
    }
    const bool fits = (!to_device || on_device(copy.to, copy.to_pitch, copy)) &&
                      (!from_device || on_device(copy.from, copy.from_pitch, copy));
    return fits ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t enqueue_copy(const Copy& copy, cudaMemcpyKind kind, cudaStream_t stream) {
    return call([&] {
        const cudaError_t error = check(copy, kind);
        if (error == cudaSuccess && copy.width_bytes != 0) enqueue(stream, copy);
        return error;
    });
}

}  // namespace

}  // namespace gptoss::emulation

using namespace gptoss::emulation;

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width_bytes, size_t rows, cudaMemcpyKind kind,
                              cudaStream_t stream) {
    const Copy copy{static_cast<std::byte*>(to),
                    static_cast<const std::byte*>(from),
                    to_pitch,
                    from_pitch,
                    width_bytes,
                    rows};
    return enqueue_copy(copy, kind, stream);
}

// Waits for the null stream and blocking streams, not for others.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    const auto allowed = [] {
        return may_block_capture() ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
    };
    cudaError_t error = call(allowed);
    if (error == cudaSuccess) error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}

cudaError_t cudaMemset(void* p, int byte, size_t bytes) {
    return cudaMemsetAsync(p, byte, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void* p, int byte, size_t bytes, cudaStream_t stream) {
    return call([&] {
        if (!is_device_range(p, bytes)) return cudaErrorInvalidValue;
        if (bytes != 0) enqueue(stream, [=] { std::memset(p, byte, bytes); });
        return cudaSuccess;
    });
}

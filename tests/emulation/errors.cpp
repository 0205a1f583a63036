// Names of errors.
#include <iterator>

#include "emulation/runtime_api.h"

namespace {

struct Row {
    cudaError_t error;
    const char *name, *text;
};

#define GPTOSS_ROW(error, text) {error, #error, text}
constexpr Row kRows[] = {
    GPTOSS_ROW(cudaSuccess, "no error"),
    GPTOSS_ROW(cudaErrorInvalidValue, "invalid argument"),
    GPTOSS_ROW(cudaErrorMemoryAllocation, "out of memory"),
    GPTOSS_ROW(cudaErrorInitializationError, "initialization error"),
    GPTOSS_ROW(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    GPTOSS_ROW(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    GPTOSS_ROW(cudaErrorInsufficientDriver,
               "CUDA driver version is insufficient for CUDA runtime version"),
    GPTOSS_ROW(cudaErrorInvalidDeviceFunction, "invalid device function"),
    GPTOSS_ROW(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    GPTOSS_ROW(cudaErrorInvalidDevice, "invalid device ordinal"),
    GPTOSS_ROW(cudaErrorNoKernelImageForDevice,
               "no kernel image is available for execution on the device"),
    GPTOSS_ROW(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    GPTOSS_ROW(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    GPTOSS_ROW(cudaErrorNotReady, "device not ready"),
    GPTOSS_ROW(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    GPTOSS_ROW(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    GPTOSS_ROW(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    GPTOSS_ROW(cudaErrorLaunchFailure, "unspecified launch failure"),
    GPTOSS_ROW(cudaErrorNotSupported, "operation not supported"),
    GPTOSS_ROW(cudaErrorStreamCaptureUnsupported,
               "operation not permitted when stream is capturing"),
    GPTOSS_ROW(cudaErrorStreamCaptureInvalidated,
               "operation failed due to a previous error during capture"),
    GPTOSS_ROW(cudaErrorStreamCaptureIsolation,
               "dependency created on uncaptured work in another stream"),
    GPTOSS_ROW(cudaErrorStreamCaptureImplicit,
               "operation would make the legacy stream depend on a capturing blocking stream"),
    GPTOSS_ROW(cudaErrorCapturedEvent,
               "operation not permitted on an event last recorded in a capturing stream"),
    GPTOSS_ROW(cudaErrorUnknown, "unknown error"),
};
#undef GPTOSS_ROW

const Row& find(cudaError_t error) {
    for (const Row& row : kRows) {
        if (row.error == error) return row;
    }
    return kRows[std::size(kRows) - 1];
}

}  // namespace

const char* cudaGetErrorString(cudaError_t error) { return find(error).text; }
const char* cudaGetErrorName(cudaError_t error) { return find(error).name; }

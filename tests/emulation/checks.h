// For the emulator's own tests: named cases that read stdin and write stdout (test_emulation.py).
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "backend/cuda/ptx.cuh"

namespace checks {

inline std::map<std::string, void (*)()>& cases() {
    static std::map<std::string, void (*)()> all;
    return all;
}

struct Case {
    Case(const char* name, void (*body)()) { cases()[name] = body; }
};

#define CASE(name)                                      \
    static void name();                                 \
    static const checks::Case name##_case(#name, name); \
    static void name()

inline void want(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::printf("%s\n", cudaGetErrorName(error));
    std::fflush(stdout);
    std::_Exit(3);
}

// All of stdin as values.
template <class T>
std::vector<T> input() {
    std::vector<T> out;
    T value;
    while (std::fread(&value, sizeof value, 1, stdin) == 1) out.push_back(value);
    return out;
}

template <class T>
void output(const std::vector<T>& values) {
    std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

// Values in device memory; what it starts with is waited for.
template <class T>
class OnDevice {
  public:
    explicit OnDevice(size_t size) : size_(size) { want(cudaMalloc(&data_, size * sizeof(T))); }
    explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
        want(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    OnDevice(const OnDevice&) = delete;
    ~OnDevice() { cudaFree(data_); }
    T* data() const { return data_; }
    std::vector<T> read() const {
        std::vector<T> out(size_);
        want(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
        return out;
    }

  private:
    T* data_ = nullptr;
    size_t size_;
};

template <class... Parameters, class... Arguments>
cudaError_t start(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                  cudaStream_t stream, const Arguments&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
         const Arguments&... arguments) {
    want(start(kernel, grid, block, shared_bytes, nullptr, arguments...));
    want(cudaDeviceSynchronize());
}

}  // namespace checks

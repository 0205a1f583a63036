// Cases of the runtime: lazy streams, events, graphs, memory, launches and lost devices.
#include <thread>

#include "emulation/checks.h"

using namespace checks;

namespace {

__global__ void add(int* p, int value) { *p += value; }
__global__ void read_beyond(const int* p, int count, int* out) { *out = p[count]; }
__global__ void write_shared(int bytes) { gptoss::cuda::shared_memory()[bytes] = std::byte{1}; }

cudaStream_t new_stream() {
    cudaStream_t stream;
    want(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

struct Pinned {
    int* value;
    Pinned() { want(cudaMallocHost(&value, sizeof(int))); }
    ~Pinned() { cudaFreeHost(value); }
};

void fetch(const Pinned& to, const int* from, cudaStream_t stream) {
    want(cudaMemcpyAsync(to.value, from, sizeof(int), cudaMemcpyDeviceToHost, stream));
}

CASE(lazy) {
    const OnDevice<int> n(std::vector<int>{5});
    const Pinned seen;
    const cudaStream_t stream = new_stream();
    *seen.value = 0;
    want(start(add, 1, 1, 0, stream, n.data(), 2));
    fetch(seen, n.data(), stream);
    std::printf("%d ", *seen.value);
    // The null stream does not wait for a non-blocking one.
    std::printf("%d ", n.read()[0]);
    want(cudaStreamSynchronize(stream));
    std::printf("%d\n", *seen.value);
    want(cudaStreamDestroy(stream));
}

CASE(events) {
    const OnDevice<int> n(std::vector<int>{0});
    const cudaStream_t first = new_stream(), second = new_stream();
    const Pinned seen;
    cudaEvent_t event, last;
    want(cudaEventCreate(&event));
    want(cudaEventCreate(&last));
    want(start(add, 1, 1, 0, first, n.data(), 1));
    want(cudaEventRecord(event, first));
    want(start(add, 1, 1, 0, first, n.data(), 10));
    want(cudaStreamWaitEvent(second, event));
    fetch(seen, n.data(), second);
    want(cudaEventRecord(last, second));
    float ms = -1;
    std::printf("%s ", cudaGetErrorName(cudaEventElapsedTime(&ms, event, last)));
    want(cudaEventSynchronize(last));
    std::printf("%d ", *seen.value);
    want(cudaEventElapsedTime(&ms, event, last));
    want(cudaDeviceSynchronize());
    std::printf("%d %d\n", n.read()[0], ms >= 0);
    for (cudaEvent_t e : {event, last}) want(cudaEventDestroy(e));
    for (cudaStream_t s : {first, second}) want(cudaStreamDestroy(s));
}

CASE(graph) {
    const OnDevice<int> n(std::vector<int>{0});
    const cudaStream_t stream = new_stream(), other = new_stream();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t fork, join;
    want(cudaEventCreate(&fork));
    want(cudaEventCreate(&join));
    want(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    int value = 3;
    want(start(add, 1, 1, 0, stream, n.data(), value));
    value = 1000;  // the argument was copied
    want(cudaEventRecord(fork, stream));
    want(cudaStreamWaitEvent(other, fork));
    want(start(add, 1, 1, 0, other, n.data(), 4));
    want(cudaEventRecord(join, other));
    want(cudaStreamWaitEvent(stream, join));
    want(cudaStreamEndCapture(stream, &graph));
    want(cudaDeviceSynchronize());
    std::printf("%d ", n.read()[0]);
    want(cudaGraphInstantiate(&exec, graph, 0));
    want(cudaGraphDestroy(graph));
    for (int i = 0; i < 3; ++i) want(cudaGraphLaunch(exec, stream));
    std::printf("%d ", n.read()[0]);
    want(cudaGraphExecDestroy(exec));
    want(cudaStreamSynchronize(stream));
    std::printf("%d\n", n.read()[0]);
    for (cudaEvent_t e : {fork, join}) want(cudaEventDestroy(e));
    for (cudaStream_t s : {stream, other}) want(cudaStreamDestroy(s));
}

CASE(capture_refuses) {
    const cudaStream_t stream = new_stream();
    cudaGraph_t graph;
    void* p = nullptr;
    want(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    want(cudaMalloc(&p, 16));
    std::printf("%s\n", cudaGetErrorName(cudaStreamSynchronize(stream)));
    std::printf("%s\n", cudaGetErrorName(cudaStreamEndCapture(stream, &graph)));
    want(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    // Another thread may; this one may not.
    std::thread([] {
        void* mine = nullptr;
        want(cudaMalloc(&mine, 16));
        want(cudaFree(mine));
    }).join();
    std::printf("%s\n", cudaGetErrorName(cudaFree(p)));
    std::printf("%s\n", cudaGetErrorName(cudaStreamEndCapture(stream, &graph)));
    want(cudaFree(p));
    want(cudaStreamDestroy(stream));
}

CASE(memory) {
    size_t free_bytes = 0, total = 0;
    void *first = nullptr, *second = nullptr;
    want(cudaMalloc(&first, 600));
    std::printf("%s ", cudaGetErrorName(cudaMalloc(&second, 600)));
    want(cudaMemGetInfo(&free_bytes, &total));
    std::printf("%zu %zu ", free_bytes, total);
    unsigned char byte = 0;
    want(cudaMemcpy(&byte, first, 1, cudaMemcpyDeviceToHost));
    std::printf("%x ", byte);
    const auto copied = [&](size_t bytes, cudaMemcpyKind kind) {
        std::vector<std::byte> host(bytes);
        return cudaGetErrorName(cudaMemcpy(host.data(), first, bytes, kind));
    };
    std::printf("%s %s %s\n", copied(601, cudaMemcpyDeviceToHost),
                copied(6, cudaMemcpyHostToDevice), cudaGetErrorName(cudaFree(&byte)));
    want(cudaFree(first));
    want(cudaMalloc(&second, 1000));
    want(cudaFree(second));
}

CASE(launches) {
    const OnDevice<int> n(1);
    const auto attempt = [&](dim3 grid, dim3 block, size_t shared) {
        const cudaError_t error = start(add, grid, block, shared, nullptr, n.data(), 1);
        std::printf("%s ", cudaGetErrorName(error));
    };
    attempt(0, 1, 0);
    attempt(1, 1025, 0);
    attempt(1, 1, 50000);
    std::printf("%s ", cudaGetErrorName(cudaGetLastError()));
    want(cudaFuncSetAttribute(add, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
    attempt(1, 1, 60000);
    attempt(1, 1, 60001);
    std::printf("%s ", cudaGetErrorName(cudaFuncSetAttribute(
                           add, cudaFuncAttributeMaxDynamicSharedMemorySize, 232449)));
    cudaGetLastError();
    want(cudaDeviceSynchronize());
    std::printf("%s\n", cudaGetErrorName(cudaGetLastError()));
}

CASE(lost) {
    const OnDevice<int> n(std::vector<int>{0});
    std::printf("%s ", cudaGetErrorName(start(add, 1, 1, 0, nullptr, n.data(), 1)));
    std::printf("%s ", cudaGetErrorName(start(add, 1, 1, 0, nullptr, n.data(), 1)));
    std::printf("%s ", cudaGetErrorName(cudaDeviceSynchronize()));
    void* p = nullptr;
    std::printf("%s ", cudaGetErrorName(cudaMalloc(&p, 1)));
    std::printf("%s %s\n", cudaGetErrorName(cudaGetLastError()),
                cudaGetErrorName(cudaGetLastError()));
}

CASE(describe) {
    int count = 0;
    std::printf("%s ", cudaGetErrorName(cudaGetDeviceCount(&count)));
    cudaDeviceProp all{};
    std::printf("%d %s ", count, cudaGetErrorName(cudaGetDeviceProperties(&all, 0)));
    std::printf("%s %d.%d %d %zu\n", all.name, all.major, all.minor, all.multiProcessorCount,
                all.sharedMemPerBlockOptin);
}

// Many host threads at once.
CASE(threads) {
    const OnDevice<int> n(std::vector<int>{0});
    std::vector<std::thread> all;
    for (int i = 0; i < 4; ++i) {
        all.emplace_back([&] {
            const cudaStream_t stream = new_stream();
            for (int step = 0; step < 100; ++step) {
                want(start(add, 2, 1, 0, stream, n.data(), 1));
                if (step % 10 == 0) want(cudaStreamSynchronize(stream));
            }
            want(cudaStreamSynchronize(stream));
            want(cudaStreamDestroy(stream));
        });
    }
    for (auto& thread : all) thread.join();
    std::printf("%d\n", n.read()[0]);
}

// For the address sanitizer.
CASE(reads_beyond_memory) {
    const OnDevice<int> n(4), out(1);
    run(read_beyond, 1, 1, 0, n.data(), 4, out.data());
}
CASE(writes_beyond_shared) { run(write_shared, 1, 1, 40, 40); }

}  // namespace

// Where published tensors come from: a list of named byte ranges, and bytes on demand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace gptoss {

struct TensorSpec {
    std::string name;
    DType dtype = DType::kBf16;
    std::vector<int64_t> shape;
    int file = 0;         // index into the source's files
    uint64_t offset = 0;  // bytes from the start of the file

    uint64_t elements() const {
        uint64_t n = 1;
        for (int64_t extent : shape) n *= static_cast<uint64_t>(extent);
        return n;
    }
    uint64_t bytes() const { return elements() * dtype_bytes(dtype); }
};

// Bytes [begin, begin + size) of a tensor.
struct TensorRange {
    const TensorSpec* tensor;
    uint64_t begin, size;
};

class TensorSource {
  public:
    virtual ~TensorSource() = default;

    // Fills out, aligned for any dtype, with the range's bytes. The system's file cache drops them
    // unless keep_cached. Safe to call from several threads.
    virtual void read(const TensorRange& range, bool keep_cached, std::byte* out) const = 0;
    // Says that the range will be read soon.
    virtual void expect(const TensorRange&) const {}
    // Where all of it lies, for messages.
    virtual std::string folder() const = 0;
    // The file the tensor lies in, for messages.
    virtual std::string file_name(const TensorSpec& tensor) const = 0;
};

}  // namespace gptoss

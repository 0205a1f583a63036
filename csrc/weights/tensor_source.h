// Where published tensors come from: a list of named byte ranges, and bytes on demand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
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

class TensorSource {
  public:
    virtual ~TensorSource() = default;

    // Calls use(data) with bytes [begin, begin + size) of the tensor, valid until use returns and
    // released after it. Safe to call from several threads.
    virtual void read(const TensorSpec& tensor, uint64_t begin, uint64_t size,
                      const std::function<void(const std::byte*)>& use) const = 0;
    // The file the tensor lies in, for messages.
    virtual std::string file_name(const TensorSpec& tensor) const = 0;
};

}  // namespace gptoss

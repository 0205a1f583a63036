// Published tensors in mapped files.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "weights/tensor_source.h"

namespace gptoss {

class MappedSource final : public TensorSource {
  public:
    // Maps the files and checks every tensor's range against them; throws CheckpointError.
    MappedSource(const std::vector<std::string>& files, std::span<const TensorSpec> tensors);

    void read(const TensorRange& range, bool keep_cached,
              const std::function<void(const std::byte*)>& use) const override;
    void expect(const TensorRange& range) const override;
    std::string folder() const override;
    std::string file_name(const TensorSpec& tensor) const override;

  private:
    std::vector<std::unique_ptr<MappedFile>> files_;
};

}  // namespace gptoss

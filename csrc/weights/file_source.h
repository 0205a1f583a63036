// Published tensors in files.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "weights/tensor_source.h"

namespace gptoss {

class FileSource final : public TensorSource {
  public:
    // Opens the files and checks every tensor's range against them; throws CheckpointError.
    FileSource(const std::vector<std::string>& files, std::span<const TensorSpec> tensors);

    void read(const TensorRange& range, bool keep_cached, std::byte* out) const override;
    void expect(const TensorRange& range) const override;
    std::string folder() const override;
    std::string file_name(const TensorSpec& tensor) const override;

  private:
    std::vector<std::unique_ptr<File>> files_;
};

}  // namespace gptoss

#include "weights/file_source.h"

#include <filesystem>

#include "base/error.h"

namespace gptoss {
namespace {

// More than any model has; keeps the products of extents inside 64 bits.
constexpr uint64_t kMaxElements = uint64_t{1} << 48;

void check_range(const TensorSpec& tensor, const File& file) {
    const auto refuse = [&](const std::string& what) {
        throw CheckpointError(message(file.path(), ": tensor ", tensor.name, ": ", what));
    };
    uint64_t elements = 1;
    for (int64_t extent : tensor.shape) {
        if (extent < 1 || static_cast<uint64_t>(extent) > kMaxElements / elements)
            refuse(message("extent ", extent, ", wanted 1 or more and at most ", kMaxElements,
                           " elements"));
        elements *= static_cast<uint64_t>(extent);
    }
    if (tensor.offset > file.size() || tensor.bytes() > file.size() - tensor.offset)
        refuse(message("wants bytes ", tensor.offset, " to ", tensor.offset + tensor.bytes(),
                       " of a file of ", file.size(), " bytes"));
    if (tensor.offset % dtype_bytes(tensor.dtype) != 0)
        refuse(message("starts at byte ", tensor.offset, ", wanted a multiple of ",
                       dtype_bytes(tensor.dtype)));
}

}  // namespace

FileSource::FileSource(const std::vector<std::string>& files, std::span<const TensorSpec> tensors) {
    for (const std::string& path : files) files_.push_back(std::make_unique<File>(path));
    for (const TensorSpec& tensor : tensors) {
        if (tensor.file < 0 || tensor.file >= static_cast<int>(files_.size()))
            throw InvalidArgument(message("tensor ", tensor.name, ": file ", tensor.file,
                                          ", wanted 0 to ", files_.size() - 1));
        check_range(tensor, *files_[tensor.file]);
    }
}

void FileSource::read(const TensorRange& range, bool keep_cached, std::byte* out) const {
    const File& file = *files_[range.tensor->file];
    const uint64_t offset = range.tensor->offset + range.begin;
    file.read(offset, range.size, out);
    if (!keep_cached) file.forget(offset, range.size);
}

void FileSource::expect(const TensorRange& range) const {
    files_[range.tensor->file]->expect(range.tensor->offset + range.begin, range.size);
}

std::string FileSource::folder() const {
    return files_.empty() ? "(no files)"
                          : std::filesystem::path(files_[0]->path()).parent_path().string();
}

std::string FileSource::file_name(const TensorSpec& tensor) const {
    return files_[tensor.file]->path();
}

}  // namespace gptoss

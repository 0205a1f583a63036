// A file mapped for reading, whose pages can be dropped again piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gptoss {

class MappedFile {
  public:
    // Throws CheckpointError if the file cannot be opened, or is not a plain file.
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::string& path() const { return path_; }
    uint64_t size() const { return size_; }

    // Bytes [offset, offset + size); throws CheckpointError when the file has become shorter.
    const std::byte* data(uint64_t offset, uint64_t size) const;
    // Tells the system that this range is about to be read.
    void expect(uint64_t offset, uint64_t size) const;
    // Takes the range out of the process's memory; the page cache keeps it.
    void release(uint64_t offset, uint64_t size) const;

  private:
    std::string path_;
    int descriptor_ = -1;
    uint64_t size_ = 0;
    std::byte* data_ = nullptr;
};

}  // namespace gptoss

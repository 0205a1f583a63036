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
    // Starts reading a range from disk, without waiting.
    void expect(uint64_t offset, uint64_t size) const;
    // Brings a range into the process's memory at once instead of page by page. Throws
    // CheckpointError where the file has been cut off meanwhile.
    void populate(uint64_t offset, uint64_t size) const;
    // Takes a range out of the process's memory, and out of the system's cache unless keep_cached.
    void release(uint64_t offset, uint64_t size, bool keep_cached) const;

  private:
    std::string path_;
    int descriptor_ = -1;
    uint64_t size_ = 0;
    std::byte* data_ = nullptr;
};

}  // namespace gptoss

// Files, read in pieces or written whole.
//
// Read and not mapped: where a mapped file becomes shorter or its disk fails, touching it kills the
// process, and this one belongs to somebody else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gptoss {

class File {
  public:
    // Throws CheckpointError if the file cannot be opened, or is not a plain file.
    explicit File(const std::string& path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    const std::string& path() const { return path_; }
    uint64_t size() const { return size_; }

    // Reads bytes [offset, offset + size), from any thread. Throws CheckpointError.
    void read(uint64_t offset, uint64_t size, std::byte* out) const;
    // Starts reading a range from disk, without waiting.
    void expect(uint64_t offset, uint64_t size) const;
    // Takes a range out of the system's cache.
    void forget(uint64_t offset, uint64_t size) const;

  private:
    std::string path_;
    int descriptor_ = -1;
    uint64_t size_ = 0;
};

// A file written under another name beside its own, which it gets when it is whole: what was there
// before stays until then.
class NewFile {
  public:
    // Throws Error if it cannot be made.
    explicit NewFile(const std::string& path);
    ~NewFile();  // takes away what is not whole
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    // Throw Error, as on a full disk.
    void write(const void* data, size_t bytes);
    void finish();

  private:
    [[noreturn]] void fail() const;

    std::string path_, part_;
    int descriptor_ = -1;
};

}  // namespace gptoss

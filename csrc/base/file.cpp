#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace gptoss {

File::File(const std::string& path) : path_(path) {
    descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0)
        throw CheckpointError(message(path, ": cannot be opened: ", std::strerror(errno)));
    struct stat status;
    const bool plain = fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
    if (!plain) {
        close(descriptor_);
        throw CheckpointError(message(path, ": is not a plain file"));
    }
    size_ = static_cast<uint64_t>(status.st_size);
}

File::~File() { close(descriptor_); }

void File::read(uint64_t offset, uint64_t size, std::byte* out) const {
    while (size > 0) {
        const ssize_t count = pread(descriptor_, out, size, static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0)
            throw CheckpointError(
                message(path_, ": cannot be read at byte ", offset, ": ", std::strerror(errno)));
        if (count == 0)
            throw CheckpointError(message(path_, ": ends at byte ", offset, ", had ", size_,
                                          " bytes when it was opened"));
        offset += static_cast<uint64_t>(count);
        size -= static_cast<uint64_t>(count);
        out += count;
    }
}

void File::expect(uint64_t offset, uint64_t size) const {
    posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(size),
                  POSIX_FADV_WILLNEED);
}

void File::forget(uint64_t offset, uint64_t size) const {
    posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(size),
                  POSIX_FADV_DONTNEED);
}

NewFile::NewFile(const std::string& path) : path_(path) {
    static std::atomic<int> number{0};
    // A process of the same number may have been killed while it wrote.
    constexpr int kTries = 1000;
    for (int i = 0; i < kTries && descriptor_ < 0 && (i == 0 || errno == EEXIST); ++i) {
        part_ = message(path, ".part-", getpid(), "-", ++number);
        descriptor_ = open(part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (descriptor_ < 0) fail();
}

NewFile::~NewFile() {
    if (descriptor_ < 0) return;
    close(descriptor_);
    unlink(part_.c_str());
}

void NewFile::fail() const {
    throw Error(message(path_, ": cannot be written: ", std::strerror(errno)));
}

void NewFile::write(const void* data, size_t bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    while (bytes > 0) {
        const ssize_t count = ::write(descriptor_, from, bytes);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail();
        from += count;
        bytes -= static_cast<size_t>(count);
    }
}

void NewFile::finish() {
    if (fsync(descriptor_) != 0 || rename(part_.c_str(), path_.c_str()) != 0) fail();
    close(descriptor_);
    descriptor_ = -1;
}

}  // namespace gptoss

#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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

}  // namespace gptoss

#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace gptoss {
namespace {

constexpr uint64_t kPage = 4096;

uint64_t file_bytes(int descriptor, const std::string& path) {
    struct stat status;
    if (fstat(descriptor, &status) != 0)
        throw CheckpointError(message(path, ": cannot be read: ", std::strerror(errno)));
    if (!S_ISREG(status.st_mode)) throw CheckpointError(message(path, ": is not a plain file"));
    return static_cast<uint64_t>(status.st_size);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
    descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0)
        throw CheckpointError(message(path, ": cannot be opened: ", std::strerror(errno)));
    try {
        size_ = file_bytes(descriptor_, path);
        if (size_ == 0) return;
        void* mapping = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
        if (mapping == MAP_FAILED)
            throw CheckpointError(message(path, ": cannot be mapped: ", std::strerror(errno)));
        data_ = static_cast<std::byte*>(mapping);
    } catch (...) {
        close(descriptor_);
        throw;
    }
}

MappedFile::~MappedFile() {
    if (data_) munmap(data_, size_);
    close(descriptor_);
}

const std::byte* MappedFile::data(uint64_t offset, uint64_t size) const {
    // Touching a page behind the end of a file that shrank would kill the process.
    const uint64_t now = file_bytes(descriptor_, path_);
    if (now < size_ || offset > size_ || size > size_ - offset)
        throw CheckpointError(
            message(path_, ": has ", now, " bytes, wanted bytes ", offset, " to ", offset + size));
    return data_ + offset;
}

void MappedFile::expect(uint64_t offset, uint64_t size) const {
    posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(size),
                  POSIX_FADV_WILLNEED);
}

void MappedFile::populate(uint64_t offset, uint64_t size) const {
    const uint64_t begin = offset / kPage * kPage;
    // Systems before Linux 5.14 decline with EINVAL, and fault as they go.
    if (madvise(data_ + begin, offset + size - begin, MADV_POPULATE_READ) != 0 && errno == EFAULT)
        throw CheckpointError(message(path_, ": became shorter while it was read"));
}

void MappedFile::release(uint64_t offset, uint64_t size, bool keep_cached) const {
    // Pages shared with a neighbouring range are dropped too: they are only read in again.
    const uint64_t begin = offset / kPage * kPage;
    madvise(data_ + begin, offset + size - begin, MADV_DONTNEED);
    if (!keep_cached)
        posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(size),
                      POSIX_FADV_DONTNEED);
}

}  // namespace gptoss

#include "base/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>

#include "base/error.h"

namespace gptoss {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;

}  // namespace

Memory::Memory(size_t bytes, const std::string& purpose) : size_(bytes) {
    if (bytes == 0) return;
    if (bytes > SIZE_MAX / 2)
        throw OutOfMemory(message("cannot have ", bytes, " bytes for ", purpose));
    const bool huge = bytes >= kHugePage;
    mapping_bytes_ = round_up(bytes, kPage) + (huge ? kHugePage : 0);
    mapping_ =
        mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) {
        mapping_ = nullptr;
        throw OutOfMemory(message("cannot have ", bytes, " bytes for ", purpose));
    }
    const uintptr_t start = reinterpret_cast<uintptr_t>(mapping_);
    data_ = reinterpret_cast<std::byte*>(huge ? round_up(start, kHugePage) : start);
    // Fewer page-table misses while streaming; a system without huge pages just declines.
    if (huge) madvise(data_, bytes, MADV_HUGEPAGE);
}

Memory::~Memory() {
    if (mapping_) munmap(mapping_, mapping_bytes_);
}

size_t available_memory() {
    std::FILE* file = std::fopen("/proc/meminfo", "r");
    if (!file) return 0;
    size_t kibibytes = 0, found = 0;
    char line[256];
    while (found == 0 && std::fgets(line, sizeof line, file))
        if (std::sscanf(line, "MemAvailable: %zu", &kibibytes) == 1) found = kibibytes * 1024;
    std::fclose(file);
    return found;
}

}  // namespace gptoss

#include "session/session_file.h"

#include <bit>
#include <cstddef>
#include <cstring>

#include "base/error.h"

namespace gptoss {
namespace {

static_assert(std::endian::native == std::endian::little);
constexpr char kMagic[8] = {'G', 'P', 'T', 'O', 'S', 'S', 'K', 'V'};
constexpr uint32_t kVersion = 2;

uint64_t hash_of(const SavedHeader& header) {
    Hash hash;
    hash.add(&header, offsetof(SavedHeader, hash));
    return hash.value();
}

}  // namespace

SessionWriter::SessionWriter(const std::string& path, SavedHeader header) : file_(path) {
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.version = kVersion;
    header.hash = hash_of(header);
    file_.write(&header, sizeof(header));
}

void SessionWriter::add(const void* data, size_t bytes) {
    hash_.add(data, bytes);
    file_.write(data, bytes);
}

void SessionWriter::finish() {
    const uint64_t hash = hash_.value();
    file_.write(&hash, sizeof(hash));
    file_.finish();
}

SessionReader::SessionReader(const std::string& path) : file_(path) {
    if (file_.size() < sizeof(header_)) refuse("is no saved session");
    file_.read(0, sizeof(header_), reinterpret_cast<std::byte*>(&header_));
    if (std::memcmp(header_.magic, kMagic, sizeof(kMagic)) != 0) refuse("is no saved session");
    if (header_.version != kVersion)
        refuse(message("is a saved session of version ", header_.version, ", wanted ", kVersion));
    const bool possible =
        header_.tokens >= 0 && header_.computed >= 0 && header_.computed <= header_.tokens &&
        header_.tokens <= header_.max_context && header_.piece_bytes < uint64_t{1} << 62 &&
        header_.stream_bytes < uint64_t{1} << 32;
    if (header_.hash != hash_of(header_) || !possible) refuse("is damaged in its first bytes");
    const uint64_t wanted = sizeof(header_) + uint64_t(header_.tokens) * (sizeof(int32_t) + 1) +
                            header_.stream_bytes + header_.piece_bytes + sizeof(uint64_t);
    if (file_.size() != wanted) refuse(message("has ", file_.size(), " bytes, wanted ", wanted));
}

void SessionReader::refuse(const std::string& what) const {
    throw CheckpointError(message(file_.path(), ": ", what));
}

void SessionReader::take(void* data, size_t bytes) {
    file_.read(at_, bytes, static_cast<std::byte*>(data));
    hash_.add(data, bytes);
    at_ += bytes;
}

void SessionReader::finish() {
    uint64_t hash = 0;
    file_.read(at_, sizeof(hash), reinterpret_cast<std::byte*>(&hash));
    if (hash != hash_.value()) refuse("is damaged");
}

}  // namespace gptoss

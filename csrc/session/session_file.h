// A session as a file: its tokens and what is computed of them.
//
// Little-endian: SavedHeader, tokens int32 [tokens], forms uint8 [tokens], the stream
// it was left in (stream_state.h) if there is one, the pieces of the cache (KvCache::read_piece) in
// order, and the hash of all that follows the header.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"
#include "base/hash.h"

namespace gptoss {

struct SavedHeader {
    char magic[8];
    uint32_t version;
    int32_t max_context, tokens, computed;
    uint64_t model;        // fingerprint()
    uint64_t piece_bytes;  // all pieces of the cache together
    uint64_t stream_bytes;
    uint64_t hash;  // of the fields before
};

class SessionWriter {
  public:
    // Fills in what the header says of itself. Throws Error, as do the others.
    SessionWriter(const std::string& path, SavedHeader header);
    void add(const void* data, size_t bytes);
    void finish();

  private:
    NewFile file_;
    Hash hash_;
};

class SessionReader {
  public:
    // Throws CheckpointError naming the file if it is no saved session, of another version,
    // damaged, or not as long as it should be.
    explicit SessionReader(const std::string& path);

    const SavedHeader& header() const { return header_; }
    // The next bytes. Throws CheckpointError.
    void take(void* data, size_t bytes);
    // Throws CheckpointError if what was taken is not what was saved.
    void finish();
    [[noreturn]] void refuse(const std::string& what) const;

  private:
    File file_;
    SavedHeader header_;
    uint64_t at_ = sizeof(SavedHeader);
    Hash hash_;
};

}  // namespace gptoss

#include "session/stream_state.h"

#include <cstring>
#include <type_traits>

namespace gptoss {
namespace {

class Writer {
  public:
    explicit Writer(std::vector<std::byte>& out) : out_(out) {}
    template <class T>
    void value(T& value) {
        static_assert(std::is_arithmetic_v<T>);
        const auto* bytes = reinterpret_cast<const std::byte*>(&value);
        out_.insert(out_.end(), bytes, bytes + sizeof(T));
    }
    bool ok() const { return true; }

  private:
    std::vector<std::byte>& out_;
};

class Reader {
  public:
    explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}
    template <class T>
    void value(T& value) {
        static_assert(std::is_arithmetic_v<T>);
        ok_ = ok_ && left_.size() >= sizeof(T);
        if (!ok_) return;
        std::memcpy(&value, left_.data(), sizeof(T));
        left_ = left_.subspan(sizeof(T));
    }
    bool ok() const { return ok_; }
    bool ended() const { return ok_ && left_.empty(); }

  private:
    std::span<const std::byte> left_;
    bool ok_ = true;
};

// The one order of the fields, to write and to read.
template <class Each>
void for_each_field(StreamState& state, Each& each) {
    Sampling& s = state.sampling;
    each.value(s.temperature);
    each.value(s.top_k);
    each.value(s.top_p);
    each.value(s.min_p);
    each.value(s.repetition_penalty);
    each.value(s.presence_penalty);
    each.value(s.frequency_penalty);
    if (!s.seed) s.seed = 0;
    each.value(*s.seed);
    each.value(s.logprobs);
    each.value(state.generated_from);
    each.value(state.left);
    uint64_t stops = state.stop_ids.size();
    each.value(stops);
    for (uint64_t i = 0; i < stops && each.ok(); ++i) {
        if (i == state.stop_ids.size()) state.stop_ids.push_back(0);
        each.value(state.stop_ids[i]);
    }
}

}  // namespace

std::vector<std::byte> to_bytes(const StreamState& state) {
    std::vector<std::byte> out;
    Writer writer(out);
    StreamState copy = state;
    for_each_field(copy, writer);
    for (auto [token, bias] : copy.sampling.logit_bias) {
        int64_t id = token;
        writer.value(id);
        writer.value(bias);
    }
    return out;
}

std::optional<StreamState> to_stream_state(std::span<const std::byte> bytes) {
    Reader reader(bytes);
    StreamState out;
    for_each_field(out, reader);
    while (reader.ok() && !reader.ended()) {
        int64_t token = 0;
        double bias = 0;
        reader.value(token);
        reader.value(bias);
        if (reader.ok()) out.sampling.logit_bias[token] = bias;
    }
    if (!reader.ended()) return std::nullopt;
    return out;
}

}  // namespace gptoss

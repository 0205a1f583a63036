// What computes: weights placed for one device, and the nine stages over them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/arrival.h"
#include "backend/stage_memory.h"
#include "backend/stages.h"
#include "weights/layout.h"

namespace gptoss {

struct PlacedLayer {
    const float* attention_norm;  // [hidden]
    Matrix qkv;
    const float* qkv_bias;
    const float* sinks;  // [heads]
    Matrix attn_out;
    const float* attn_out_bias;
    const float* moe_norm;
    Matrix router;
    const float* router_bias;
    Matrix moe_up;
    const float* moe_up_bias;  // [experts, 2 inner]
    Matrix moe_down;
    const float* moe_down_bias;  // [experts, hidden]
};

// The loading of a placed model, which ends with it: it writes to its memory.
class Arriving {
  public:
    Arriving() = default;
    explicit Arriving(std::shared_ptr<Arrival> arrival) : arrival_(std::move(arrival)) {}
    Arriving(Arriving&&) = default;
    Arriving& operator=(Arriving&&) = default;
    ~Arriving() {
        if (arrival_) arrival_->end();
    }
    const std::shared_ptr<Arrival>& get() const { return arrival_; }

  private:
    std::shared_ptr<Arrival> arrival_;
};

// A model's weights in a backend's memory; an outline of it has sizes and null pointers.
struct PlacedModel {
    StageMemory memory;
    size_t bytes = 0;
    const bf16* embedding = nullptr;    // [vocab, hidden]
    const float* final_norm = nullptr;  // [hidden]
    Matrix unembedding;
    std::vector<PlacedLayer> layers;
    // What requantising dense weights lost: name, and root of (squared error / squared weight).
    std::vector<std::pair<std::string, double>> dense_errors;
    // Null: all is there. Else parts are the embedding, the layers, what follows them, and
    // dense_errors; each is to be waited for.
    Arriving arriving;
    int parts() const { return static_cast<int>(layers.size()) + 3; }
};

// Called now and then from the thread that loads, with bytes of the published tensors; what it
// throws ends the loading.
using Progress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

struct Loading {
    Progress progress = {};
    bool wait = true;  // else a backend may return before the weights are there; no progress then
};

// What a backend wants of the steps it is given.
struct BackendTraits {
    int prefill_rows;      // most rows of a step of prompt tokens
    int decode_rows;       // most rows of a step of generated tokens, and of logits
    bool asynchronous;     // stages are begun by a call and end later
    bool host_memory;      // its memory is the host's: pointers may be passed as they are
    int key_tile;          // positions of a tile of keys (KvLayer)
    int activation_bytes;  // of a value of h and act, in the backend's own form
    bool forms_agree;      // prompts and generated tokens get the same bits
};

constexpr size_t kFetchBytes = 4096;

// Not to be called by two threads at once. Throws DeviceError where the device fails.
class Backend {
  public:
    virtual ~Backend() = default;

    virtual BackendTraits traits() const = 0;
    virtual std::unique_ptr<PlacedModel> place(const ModelConfig& config,
                                               std::shared_ptr<const Published> published,
                                               WeightFormat dense, const Loading& loading) = 0;
    // What place() will make, without memory or weights.
    virtual PlacedModel outline(const ModelConfig& config, WeightFormat dense) const = 0;
    // Bytes of scratch for steps of this backend's traits; prepare() takes them.
    virtual size_t scratch_bytes(const ModelConfig& config) const = 0;
    virtual void prepare(const ModelConfig& config) = 0;
    // Bytes that the device could still give; 0 where it does not say.
    virtual size_t available_bytes() const = 0;

    // Memory that the stages reach, its contents undefined. Throws OutOfMemory naming `purpose`.
    virtual StageMemory allocate(size_t bytes, const std::string& purpose) = 0;
    // Between the host and such memory, in order with the stages. `from` may be reused on return;
    // read waits until `to` is filled.
    virtual void write(void* to, const void* from, size_t bytes) = 0;
    virtual void read(void* to, const void* from, size_t bytes) = 0;
    // Within such memory, in order with the stages.
    virtual void copy(void* to, const void* from, size_t bytes) = 0;
    // Waits for the stages begun. Throws what went wrong in them.
    virtual void synchronize() = 0;
    // Begins to copy up to kFetchBytes after the stages before, for fetched() to wait for: two
    // slots, so that one step's outcome can be read while the next one runs.
    virtual void fetch(int slot, const void* from, size_t bytes) = 0;
    virtual const std::byte* fetched(int slot) = 0;
    // Calls `stages`, whose stage calls and their arguments are the same each time that `key` is
    // given, the same steps but for what the memory holds; a backend may record them once.
    virtual void repeat(int key, const std::function<void()>& stages) = 0;
    // Seconds of a call of work(i), i = 0 to calls - 1, which runs stages: of the median call, or
    // of the mean call of the median round.
    virtual double time(int calls, const std::function<void(int)>& work) = 0;

    // For tests: rows of h or act, as the stage of those arguments has them, as float32 [rows,
    // columns]; `own` is of the backend's memory, args.act for act, and `out` of the host's.
    virtual void read_activations(const void* own, const MoeUpArgs& args, int rows, int columns,
                                  float* out) = 0;
    // Bytes a second that the device reads from this range of its memory, without arithmetic.
    virtual double read_rate(const std::byte* data, size_t bytes) = 0;
    // Bytes a second that the device reads and writes while it copies so many bytes.
    virtual double copy_rate(size_t bytes) = 0;
    virtual Precision precision() const = 0;
    // Pairs of names and values for people: threads, instruction set, the kernel of each stage.
    virtual std::vector<std::pair<std::string, std::string>> describe() const = 0;

    virtual void embed(const EmbedArgs& args) = 0;
    virtual void qkv(const QkvArgs& args) = 0;
    virtual void attention(const AttentionArgs& args) = 0;
    virtual void attn_out(const AttnOutArgs& args) = 0;
    virtual void router(const RouterArgs& args) = 0;
    virtual void moe_up(const MoeUpArgs& args) = 0;
    virtual void moe_down(const MoeDownArgs& args) = 0;
    virtual void logits(const LogitsArgs& args) = 0;
    virtual void sample(const SampleArgs& args) = 0;
};

}  // namespace gptoss

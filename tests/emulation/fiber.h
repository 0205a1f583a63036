// Stacks and the switch between them: what one CUDA thread runs on.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace gptoss::emulation {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr size_t kStackBytes = 256 << 10;
#else
inline constexpr size_t kStackBytes = 64 << 10;
#endif

// Pages of its own; the one below is unreadable, so an overflow stops at once.
class Stack {
  public:
    Stack();
    Stack(Stack&& other) noexcept;
    ~Stack();
    std::byte* bottom() const { return bottom_; }

  private:
    std::byte* bottom_;
};

// Where suspended execution goes on.
struct Context {
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t registers;
#endif
#if defined(__SANITIZE_ADDRESS__)
    const void* stack_bottom = nullptr;
    size_t stack_bytes = 0;
    void* fake_stack = nullptr;
#endif
};

// Makes the context start entry(), which calls entered() first and never returns. `number` spreads
// the tops of many stacks over the sets of the first cache.
void prepare(Context& context, const Stack& stack, size_t number, void (*entry)());

#if defined(__x86_64__)
extern "C"
    __attribute__((visibility("hidden"))) void gptoss_emulation_switch(void** from, void* to);
#endif

inline void switch_registers(Context& from, Context& to) {
#if defined(__x86_64__)
    gptoss_emulation_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.registers, &to.registers);
#endif
}

#if defined(__SANITIZE_ADDRESS__)
// Whom the running context was switched to from: the sanitizer tells that stack's bounds.
inline Context* switched_from = nullptr;

inline void entered(Context& self) {
    __sanitizer_finish_switch_fiber(self.fake_stack, &switched_from->stack_bottom,
                                    &switched_from->stack_bytes);
}

inline void switch_context(Context& from, Context& to) {
    switched_from = &from;
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_bytes);
    switch_registers(from, to);
    entered(from);
}

// As switch_context, from a context that will not be resumed.
[[noreturn]] inline void leave_context(Context& from, Context& to) {
    switched_from = &from;
    __sanitizer_start_switch_fiber(nullptr, to.stack_bottom, to.stack_bytes);
    switch_registers(from, to);
    __builtin_unreachable();
}

inline void forget_frames(const Stack& stack) {
    __asan_unpoison_memory_region(stack.bottom(), kStackBytes);
}
#else
inline void entered(Context&) {}

inline void switch_context(Context& from, Context& to) { switch_registers(from, to); }

[[noreturn]] inline void leave_context(Context& from, Context& to) {
    switch_registers(from, to);
    __builtin_unreachable();
}

inline void forget_frames(const Stack&) {}
#endif

}  // namespace gptoss::emulation

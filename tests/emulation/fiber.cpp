// Stacks from the system and the switch for x86-64: the registers that a called function must
// keep go on the old stack, then the new stack's come back.
#include "emulation/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <utility>

#if defined(__x86_64__)
// It ends in a jump, not a return: the processor's stack of return addresses would guess wrong.
asm(R"(
.text
.globl gptoss_emulation_switch
.hidden gptoss_emulation_switch
.type gptoss_emulation_switch, @function
gptoss_emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size gptoss_emulation_switch, .-gptoss_emulation_switch
)");
#endif

namespace gptoss::emulation {

namespace {

size_t guard_bytes() {
    static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

}  // namespace

Stack::Stack() {
    void* all = mmap(nullptr, guard_bytes() + kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    mprotect(all, guard_bytes(), PROT_NONE);
    bottom_ = static_cast<std::byte*>(all) + guard_bytes();
}

Stack::Stack(Stack&& other) noexcept : bottom_(std::exchange(other.bottom_, nullptr)) {}

Stack::~Stack() {
    if (bottom_ != nullptr) munmap(bottom_ - guard_bytes(), guard_bytes() + kStackBytes);
}

void prepare(Context& context, const Stack& stack, size_t number, void (*entry)()) {
    const size_t usable = kStackBytes - number % 32 * 128;
#if defined(__x86_64__)
    // As if called: a return address of 0 ends back traces, and 8 bytes lie on the aligned top.
    auto** top = reinterpret_cast<void**>(stack.bottom() + usable);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(entry);
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    context.stack_pointer = top - 8;
#else
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = stack.bottom();
    context.registers.uc_stack.ss_size = usable;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, entry, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
    context.stack_bottom = stack.bottom();
    context.stack_bytes = kStackBytes;
    context.fake_stack = nullptr;
#endif
}

}  // namespace gptoss::emulation

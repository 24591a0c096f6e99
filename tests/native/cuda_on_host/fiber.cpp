#include "fiber.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_host {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;

Fiber* running = nullptr;

// Pages are taken from the system when they are touched; the lowest one is closed, so that an overflow is a fault.
void* allocate_stack() {
    const std::size_t guard = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) {
        std::perror("cuda_on_host: the stack of a thread");
        std::abort();
    }
    return static_cast<char*>(memory) + guard;
}

#if defined(__SANITIZE_ADDRESS__)
const void* caller_stack = nullptr;
std::size_t caller_stack_bytes = 0;
void* caller_fake_stack = nullptr;
#endif

// AddressSanitizer has to know on which stack the program is.
void before_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* stack) {
#if defined(__SANITIZE_ADDRESS__)
    if (stack != nullptr) __sanitizer_start_switch_fiber(fake_stack, stack, kStackBytes);
    else __sanitizer_start_switch_fiber(fake_stack, caller_stack, caller_stack_bytes);
#endif
}

void after_switch_to_fiber([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &caller_stack, &caller_stack_bytes);
#endif
}

void after_switch_to_caller() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(caller_fake_stack, nullptr, nullptr);
#endif
}

void** place_of_caller_fake_stack() {
#if defined(__SANITIZE_ADDRESS__)
    return &caller_fake_stack;
#else
    return nullptr;
#endif
}

}  // namespace

#if defined(__x86_64__)

// Without the system call for the signal mask that swapcontext() makes: warps switch at every shuffle.
extern "C" void cuda_on_host_switch_stack(void** save_stack_pointer, void* stack_pointer);
asm(R"(
.text
.type cuda_on_host_switch_stack, @function
cuda_on_host_switch_stack:
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
    ret
.size cuda_on_host_switch_stack, .-cuda_on_host_switch_stack
)");

namespace {
void* caller_stack_pointer;
}

Fiber::Fiber(void (*body)()) : body_(body), stack_(allocate_stack()) {
    constexpr int kSavedRegisters = 6;
    // A stack pointer is 8 past a multiple of 16 where a function begins.
    auto* top = reinterpret_cast<std::uintptr_t*>(static_cast<char*>(stack_) + kStackBytes) - 2;
    *top = reinterpret_cast<std::uintptr_t>(&Fiber::start);
    stack_pointer_ = top - kSavedRegisters;
}

void Fiber::enter() {
    running = this;
    before_switch(place_of_caller_fake_stack(), stack_);
    cuda_on_host_switch_stack(&caller_stack_pointer, stack_pointer_);
    after_switch_to_caller();
}

void Fiber::leave() {
    Fiber* self = running;
    before_switch(&self->fake_stack_, nullptr);
    cuda_on_host_switch_stack(&self->stack_pointer_, caller_stack_pointer);
    after_switch_to_fiber(self->fake_stack_);
}

#else

namespace {
ucontext_t caller_context;
}

Fiber::Fiber(void (*body)()) : body_(body), stack_(allocate_stack()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, &Fiber::start, 0);
}

void Fiber::enter() {
    running = this;
    before_switch(place_of_caller_fake_stack(), stack_);
    swapcontext(&caller_context, &context_);
    after_switch_to_caller();
}

void Fiber::leave() {
    Fiber* self = running;
    before_switch(&self->fake_stack_, nullptr);
    swapcontext(&self->context_, &caller_context);
    after_switch_to_fiber(self->fake_stack_);
}

#endif

void Fiber::start() {
    after_switch_to_fiber(nullptr);
    running->body_();
    std::abort();
}

}  // namespace cuda_on_host

// A stack of its own to run a function on, left and entered again in the middle of it.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_host {

class Fiber {
public:
    explicit Fiber(void (*body)());  // must never return
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Runs the body from where it last left until it leaves again. Not from within a fiber.
    void enter();
    // Back to the caller of enter(). Within a fiber only.
    static void leave();

private:
    static void start();

    void (*body_)();
    void* stack_;
#if defined(__x86_64__)
    void* stack_pointer_;
#else
    ucontext_t context_;
#endif
    void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace cuda_on_host

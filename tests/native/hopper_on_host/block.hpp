// A block of threads on the host: each thread is a fiber with its own stack, and one runs at a time.
//
// A thread that waits gives up its turn until its condition holds. Copies and warpgroup products are queued. What comes
// next is the order's choice: copies and products at once (0); only when no thread can run, copies before products (1);
// or by a random number generator with that seed. When nothing can run any more, the program ends with what each warp
// waits for.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace hopper_on_host {

constexpr int kWarp = 32;
constexpr std::size_t kStackBytes = 128 * 1024;
constexpr std::uint32_t kSharedWindow = 0x410;  // where dynamic shared memory starts: not at a multiple of 1024
enum Order : int { kEager = 0, kLazy = 1 };     // others are seeds

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    std::function<bool()> ready;
    const char* waits_for = "";
    bool done = false;
};

// What 32 lanes meet at: a shuffle, __syncwarp, or an instruction that a whole warp executes.
struct Meeting {
    int arrived = 0;
    int generation = 0;
    const char* what = "";
    std::uint64_t values[2][kWarp];
};

struct Block {
    int index = 0, count = 1;
    int current = 0;
    Order order = kEager;
    std::mt19937 random;
    std::vector<Fiber> fibers;
    std::vector<Meeting> warps;
    std::deque<std::function<void()>> copies, products;
    ucontext_t scheduler;
    std::function<void()> body;
    // Two views of shared memory: what threads have written, and what of it the copy engine and wgmma see.
    std::vector<unsigned char> shared, shared_async;
    std::vector<std::vector<std::uint32_t>> unfenced;  // per thread: words that only threads see
    struct NamedBarrier {
        int arrived = 0, generation = 0;
    } named[16];
};

inline Block* block = nullptr;

[[noreturn]] inline void stop(const std::string& message) {
    std::fprintf(stderr, "block %d, thread %d: %s\n", block ? block->index : -1, block ? block->current : -1,
                 message.c_str());
    std::fflush(nullptr);
    std::_Exit(86);
}

inline void require(bool condition, const char* message) {
    if (!condition) stop(message);
}

inline void wait_until(const char* what, const std::function<bool()>& ready) {
    Block& b = *block;
    Fiber& fiber = b.fibers[b.current];
    while (!ready()) {
        fiber.ready = ready;
        fiber.waits_for = what;
        swapcontext(&fiber.context, &b.scheduler);
    }
}

// Queues a copy, or makes it at once.
inline void asynchronously(std::function<void()> copy) {
    if (block->order == kEager) return copy();
    block->copies.push_back(std::move(copy));
}

// All 32 lanes of the caller's warp meet; the last one runs `action` for all. Returns the lanes' values.
template <typename Action>
const std::uint64_t* meet(const char* what, std::uint64_t value, const Action& action) {
    Meeting& meeting = block->warps[block->current / kWarp];
    const int generation = meeting.generation;
    std::uint64_t* values = meeting.values[generation % 2];
    if (meeting.arrived == 0) meeting.what = what;
    if (std::strcmp(meeting.what, what) != 0)
        stop(std::string("lanes of a warp meet at different instructions: ") + meeting.what + ", " + what);
    values[block->current % kWarp] = value;
    if (++meeting.arrived < kWarp) {
        wait_until(what, [&meeting, generation] { return meeting.generation != generation; });
    } else {
        action();
        meeting.arrived = 0;
        ++meeting.generation;
    }
    return values;
}

inline void fiber_main() {
    block->body();
    Fiber& fiber = block->fibers[block->current];
    fiber.done = true;
    swapcontext(&fiber.context, &block->scheduler);
}

inline void report_deadlock() {
    std::string message = "deadlock:";
    for (std::size_t thread = 0; thread < block->fibers.size(); ++thread) {
        const Fiber& fiber = block->fibers[thread];
        if (fiber.done) continue;
        const bool repeats = thread % kWarp != 0 && !block->fibers[thread - 1].done &&
                             std::strcmp(fiber.waits_for, block->fibers[thread - 1].waits_for) == 0;
        if (!repeats)
            message += "\n  from warp " + std::to_string(thread / kWarp) + " lane " + std::to_string(thread % kWarp) +
                       ": " + fiber.waits_for;
    }
    stop(message);
}

// Makes one queued copy or product.
inline void run_queued() {
    Block& b = *block;
    const bool lazy = b.order == kLazy;
    const bool from_copies = !b.copies.empty() && (lazy || b.products.empty() || b.random() % 2 == 0);
    auto& queue = from_copies ? b.copies : b.products;
    const std::size_t chosen = lazy ? 0 : b.random() % queue.size();
    const std::function<void()> run = std::move(queue[chosen]);
    queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(chosen));
    run();
}

inline bool anything_queued() { return !block->copies.empty() || !block->products.empty(); }

inline void run_fibers() {
    Block& b = *block;
    const int threads = static_cast<int>(b.fibers.size());
    const bool random = b.order != kEager && b.order != kLazy;
    for (int left = threads; left > 0;) {
        // Random orders start each round at another thread, warp by warp, and let queued work pass in between.
        const int start = random ? static_cast<int>(b.random() % (threads / kWarp)) * kWarp : 0;
        if (random && anything_queued() && b.random() % 2 == 0) run_queued();
        bool ran = false;
        for (int i = 0; i < threads; ++i) {
            const int thread = (start + i) % threads;
            Fiber& fiber = b.fibers[thread];
            if (fiber.done || (fiber.ready && !fiber.ready())) continue;
            fiber.ready = nullptr;
            b.current = thread;
            swapcontext(&b.scheduler, &fiber.context);
            ran = true;
            left -= fiber.done;
        }
        if (ran) continue;
        if (!anything_queued()) report_deadlock();
        run_queued();
    }
}

inline void run_block(int index, int count, int threads, int shared_bytes, Order order, std::function<void()> body) {
    Block b;
    block = &b;
    b.index = index;
    b.count = count;
    b.order = order;
    b.random.seed(static_cast<unsigned>(order) * 977u + static_cast<unsigned>(index));
    b.body = std::move(body);
    b.fibers.resize(static_cast<std::size_t>(threads));
    b.warps.resize(static_cast<std::size_t>(threads / kWarp));
    b.unfenced.resize(static_cast<std::size_t>(threads));
    b.shared.assign(kSharedWindow + static_cast<std::size_t>(shared_bytes), 0xff);  // 16-bit elements: NaN
    b.shared_async = b.shared;
    for (Fiber& fiber : b.fibers) {
        fiber.stack.reset(new char[kStackBytes]);  // not cleared: most of it is never touched
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    run_fibers();
    while (anything_queued()) run_queued();
    block = nullptr;
}

}  // namespace hopper_on_host

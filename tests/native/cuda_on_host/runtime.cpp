#include "runtime.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "fiber.hpp"

// The bounds of the section that __shared__ variables are put in; the linker makes them if there are any.
extern "C" {
extern unsigned char __start_cuda_on_host_shared[] __attribute__((weak));
extern unsigned char __stop_cuda_on_host_shared[] __attribute__((weak));
}

namespace cuda_on_host {

dim3 grid_size;
dim3 block_size;
dim3 block_index;
dim3 thread_index;

namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxGridYZ = 65535;
constexpr std::size_t kMaxSharedBytes = 232448;  // of Hopper
constexpr unsigned char kPoison = 0xff;          // a NaN in every floating-point type

enum class State { kRunnable, kAtBarrier, kInWarpOperation, kFinished };

struct Thread {
    Fiber* fiber = nullptr;
    State state = State::kRunnable;
    int line = 0;  // of the call that it waits in
    WarpOperation operation{};
    unsigned mask = 0;
    unsigned source_lane = 0;
    std::uint64_t bits = 0;
    std::uint64_t result = 0;
};

const std::function<void()>* thread_body;
std::vector<Thread> threads;        // of the running block
std::vector<unsigned> runnable;     // threads that waited and need not any longer, a queue
std::size_t next_runnable;
unsigned started;
unsigned finished;
unsigned at_barrier;
bool backwards;
unsigned current;

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle_fibers;
unsigned char* shared_memory;
cudaError_t last_error = cudaSuccess;

unsigned thread_count() { return static_cast<unsigned>(threads.size()); }

dim3 index_of(unsigned thread) {
    const unsigned row = thread / block_size.x;
    return dim3(thread % block_size.x, row % block_size.y, row / block_size.y);
}

[[noreturn]] void fail(const char* format, ...) {
    std::fprintf(stderr, "cuda_on_host: block (%u, %u, %u) of %u x %u x %u threads: ", block_index.x, block_index.y,
                 block_index.z, block_size.x, block_size.y, block_size.z);
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
    std::abort();
}

const char* name_of(WarpOperation operation) {
    switch (operation) {
        case WarpOperation::kSynchronize: return "__syncwarp";
        case WarpOperation::kShuffle: return "a shuffle";
        case WarpOperation::kBallot: return "a ballot";
    }
    return "";
}

void make_current(unsigned thread) {
    current = thread;
    thread_index = index_of(thread);
}

void wait_as(State state) {
    threads[current].state = state;
    Fiber::leave();
}

void let_run(unsigned thread) {
    threads[thread].state = State::kRunnable;
    if (thread != current) runnable.push_back(thread);
}

// A fiber runs threads from their beginning, one after another, for as long as none waits. Where one waits, the fiber is
// its own until it has finished, and another fiber goes on with the threads that have not begun.
void run_threads() {
    for (Fiber* self = nullptr;;) {
        while (started < thread_count()) {
            const unsigned index = started++;
            make_current(backwards ? thread_count() - 1 - index : index);
            if (self == nullptr) self = threads[current].fiber;
            threads[current].fiber = self;
            (*thread_body)();
            threads[current].state = State::kFinished;
            ++finished;
        }
        idle_fibers.push_back(self);
        Fiber::leave();
    }
}

Fiber* take_fiber() {
    if (idle_fibers.empty()) {
        fibers.push_back(std::make_unique<Fiber>(&run_threads));
        return fibers.back().get();
    }
    Fiber* fiber = idle_fibers.back();
    idle_fibers.pop_back();
    return fiber;
}

[[noreturn]] void report_deadlock() {
    for (unsigned thread = 0; thread < thread_count(); ++thread) {
        const Thread& waiting = threads[thread];
        if (waiting.state != State::kInWarpOperation) continue;
        const unsigned first = thread / kWarpSize * kWarpSize;
        unsigned missing = 0;
        for (unsigned lane = 0; lane < kWarpSize; ++lane)
            if ((waiting.mask >> lane & 1) && (first + lane >= thread_count() ||
                                               threads[first + lane].state != State::kInWarpOperation))
                missing |= 1u << lane;
        fail("lanes 0x%08x are missing in %s at line %d, where thread %u waits with mask 0x%08x", missing,
             name_of(waiting.operation), waiting.line, thread, waiting.mask);
    }
    for (unsigned thread = 0; thread < thread_count(); ++thread)
        if (threads[thread].state == State::kAtBarrier)
            fail("%u of %u threads reach the barrier at line %d, the others have returned", at_barrier, thread_count(),
                 threads[thread].line);
    fail("no thread can run");
}

// Not checked by AddressSanitizer, which keeps guard zones between the variables; volatile, so as not to become memset.
__attribute__((no_sanitize("address"))) void fill_static_shared_with_poison() {
    for (volatile unsigned char* byte = __start_cuda_on_host_shared; byte != __stop_cuda_on_host_shared; ++byte)
        *byte = kPoison;
}

void run_block() {
    std::fill(threads.begin(), threads.end(), Thread{});
    runnable.clear();
    next_runnable = started = finished = at_barrier = 0;
    while (finished < thread_count()) {
        if (started < thread_count()) {
            Fiber* fiber = take_fiber();
            threads[backwards ? thread_count() - 1 - started : started].fiber = fiber;
            fiber->enter();
        } else if (next_runnable < runnable.size()) {
            make_current(runnable[next_runnable++]);
            threads[current].fiber->enter();
        } else {
            report_deadlock();
        }
    }
}

cudaError_t refusal(dim3 grid, dim3 block, std::size_t shared_bytes) {
    const std::uint64_t block_threads = std::uint64_t{block.x} * block.y * block.z;
    const bool grid_fits = grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffffu &&
                           grid.y <= kMaxGridYZ && grid.z <= kMaxGridYZ;
    if (!grid_fits || block_threads < 1 || block_threads > kMaxThreads || block.z > 64)
        return cudaErrorInvalidConfiguration;
    return shared_bytes > kMaxSharedBytes ? cudaErrorInvalidValue : cudaSuccess;
}

struct FreeMemory {
    void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

void* dynamic_shared() { return shared_memory; }

void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& thread) {
    static std::mutex one_grid;
    const std::lock_guard<std::mutex> lock(one_grid);
    const cudaError_t error = refusal(grid, block, shared_bytes);
    if (error != cudaSuccess) {
        last_error = error;
        return;
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, shared_bytes) != 0) std::abort();
    const std::unique_ptr<void, FreeMemory> owner(memory);
    shared_memory = static_cast<unsigned char*>(memory);
    thread_body = &thread;
    grid_size = grid;
    block_size = block;
    threads.resize(std::size_t{block.x} * block.y * block.z);
    backwards = false;
    for (block_index.z = 0; block_index.z < grid.z; ++block_index.z)
        for (block_index.y = 0; block_index.y < grid.y; ++block_index.y)
            for (block_index.x = 0; block_index.x < grid.x; ++block_index.x, backwards = !backwards) {
                std::memset(shared_memory, kPoison, shared_bytes);
                fill_static_shared_with_poison();
                run_block();
            }
}

cudaError_t take_last_error() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

void synchronize_block(int line) {
    threads[current].line = line;
    if (++at_barrier < thread_count()) return wait_as(State::kAtBarrier);
    at_barrier = 0;
    for (unsigned thread = 0; thread < thread_count(); ++thread) {
        if (threads[thread].line != line)
            fail("a barrier in divergent code: thread %u is at line %d, thread %u at line %d", current, line, thread,
                 threads[thread].line);
        let_run(thread);
    }
}

unsigned lane_index() { return current % kWarpSize; }

std::uint64_t exchange_in_warp(WarpOperation operation, unsigned mask, std::uint64_t bits, unsigned source_lane,
                               int line) {
    Thread& self = threads[current];
    if (!(mask >> lane_index() & 1))
        fail("thread %u is not in the mask 0x%08x of %s at line %d", current, mask, name_of(operation), line);
    if (operation == WarpOperation::kShuffle && !(mask >> source_lane & 1))
        fail("thread %u shuffles from lane %u, which is not in the mask 0x%08x, at line %d", current, source_lane, mask,
             line);
    self.operation = operation;
    self.mask = mask;
    self.source_lane = source_lane;
    self.bits = bits;
    self.line = line;
    self.state = State::kInWarpOperation;

    const unsigned first = current / kWarpSize * kWarpSize;
    unsigned voters = 0;
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
        if (!(mask >> lane & 1)) continue;
        if (first + lane >= thread_count() || threads[first + lane].state != State::kInWarpOperation) {
            wait_as(State::kInWarpOperation);
            return self.result;
        }
        if (threads[first + lane].bits != 0) voters |= 1u << lane;
    }
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Thread& other = threads[first + lane];
        if (other.operation != operation || other.mask != mask || other.line != line)
            fail("thread %u is in %s at line %d with mask 0x%08x, thread %u in %s at line %d with mask 0x%08x", current,
                 name_of(operation), line, mask, first + lane, name_of(other.operation), other.line, other.mask);
        other.result = operation == WarpOperation::kBallot ? voters : threads[first + other.source_lane].bits;
    }
    for (unsigned lane = 0; lane < kWarpSize; ++lane)
        if (mask >> lane & 1) let_run(first + lane);
    return self.result;
}

}  // namespace cuda_on_host

#include "fourreal/recycled_memory.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "fourreal/fresh_memory.hpp"

// AddressSanitizer sees an access beyond a tensor only if it allocated that memory itself.
#if defined(__SANITIZE_ADDRESS__)
#define FOURREAL_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FOURREAL_ADDRESS_SANITIZER 1
#endif
#endif

#if defined(__linux__) && !defined(FOURREAL_ADDRESS_SANITIZER)
#define FOURREAL_RECYCLES 1
#include <pthread.h>
#include <sys/mman.h>
#else
#define FOURREAL_RECYCLES 0
#endif

namespace fourreal::cpu {

#if FOURREAL_RECYCLES

namespace {

constexpr std::size_t kLargestPage = std::size_t{64} << 10;  // of the ordinary ones, on any processor
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t value, std::size_t step) { return (value + step - 1) / step * step; }

std::size_t allowed_waste(std::size_t bytes) { return std::min(bytes / 8, kHugePage); }

// Results of almost the same size get blocks of the same size, and large ones whole huge pages.
std::size_t block_bytes(std::size_t bytes) {
    std::size_t step = kLargestPage;
    while (step < kHugePage && 2 * step <= allowed_waste(bytes)) step *= 2;
    return round_up(bytes, step);
}

bool huge_pages_enabled() {
    std::FILE* file = std::fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (file == nullptr) return false;
    char text[64] = {};
    const bool read = std::fgets(text, sizeof text, file) != nullptr;
    std::fclose(file);
    return read && std::strstr(text, "[never]") == nullptr;
}

void unmap(MemoryBlock block) { munmap(block.data, block.bytes); }

void unmap_all(const std::vector<MemoryBlock>& blocks) {
    for (MemoryBlock block : blocks) unmap(block);
}

// Begins at a huge page, where a block has one.
MemoryBlock map_block(std::size_t bytes) {
    const std::size_t spare = bytes >= kHugePage ? kHugePage : 0;
    void* mapped = mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return {};
    const auto begin = reinterpret_cast<std::uintptr_t>(mapped);
    const std::uintptr_t first = spare > 0 ? round_up(begin, kHugePage) : begin, end = begin + bytes + spare;
    if (first > begin) munmap(mapped, first - begin);
    if (end > first + bytes) munmap(reinterpret_cast<void*>(first + bytes), end - first - bytes);
    const MemoryBlock block{reinterpret_cast<void*>(first), bytes};
    prefer_huge_pages(block.data, block.bytes);
    return block;
}

// The system may take these pages when it is short of memory. Where it did not, writing to them again costs nothing more
// in huge pages, but five times the writing itself in small ones: those it may not take.
void let_system_take([[maybe_unused]] MemoryBlock block) {
#if defined(MADV_FREE)
    const std::size_t whole = block.bytes / kHugePage * kHugePage;
    if (whole > 0) madvise(block.data, whole, MADV_FREE);
#endif
}

class Pool {
public:
    static Pool& instance() {
        static Pool* const pool = new Pool;  // never destroyed: tensors may be freed while the process ends
        return *pool;
    }

    MemoryBlock take(std::size_t bytes) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            const auto best = best_fit(bytes);
            if (best != kept_.end()) {
                const MemoryBlock block = *best;
                kept_.erase(best);
                kept_bytes_ -= block.bytes;
                return block;
            }
        }
        return map_block(block_bytes(bytes));
    }

    void give(MemoryBlock block) {
        if (huge_pages_) let_system_take(block);
        std::vector<MemoryBlock> surplus;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            kept_.push_back(block);
            kept_bytes_ += block.bytes;
            surplus = shrink_to(limit_);
        }
        unmap_all(surplus);
    }

    void set_limit(std::size_t bytes) {
        std::vector<MemoryBlock> surplus;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            limit_ = bytes;
            surplus = shrink_to(limit_);
        }
        unmap_all(surplus);
    }

    std::size_t kept() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return kept_bytes_;
    }

    std::size_t release() {
        std::vector<MemoryBlock> all;
        std::size_t bytes = 0;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            bytes = kept_bytes_;
            all = shrink_to(0);
        }
        unmap_all(all);
        return bytes;
    }

private:
    using Blocks = std::deque<MemoryBlock>;

    Pool() : huge_pages_(huge_pages_enabled()) {
        pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); }, [] { instance().forked(); });
    }

    // In the child, where the blocks are copies that the first write would make.
    void forked() {
        unmap_all(shrink_to(0));
        mutex_.unlock();
    }

    // The smallest that fits, of equal ones the newest, whose pages are the likeliest to be there.
    Blocks::iterator best_fit(std::size_t bytes) {
        auto best = kept_.end();
        for (auto block = kept_.begin(); block != kept_.end(); ++block)
            if (block->bytes >= bytes && block->bytes - bytes <= allowed_waste(block->bytes) &&
                (best == kept_.end() || block->bytes <= best->bytes))
                best = block;
        return best;
    }

    std::vector<MemoryBlock> shrink_to(std::size_t bytes) {
        std::vector<MemoryBlock> surplus;
        while (kept_bytes_ > bytes) {
            surplus.push_back(kept_.front());
            kept_bytes_ -= kept_.front().bytes;
            kept_.pop_front();
        }
        return surplus;
    }

    const bool huge_pages_;
    std::mutex mutex_;
    Blocks kept_;  // the oldest first
    std::size_t kept_bytes_ = 0, limit_ = 0;
};

}  // namespace

MemoryBlock take_block(std::size_t bytes) {
    const MemoryBlock block = Pool::instance().take(bytes);
    if (block.data != nullptr || release_kept() == 0) return block;
    return Pool::instance().take(bytes);
}

void give_block(MemoryBlock block) { Pool::instance().give(block); }

void set_kept_limit(std::size_t bytes) { Pool::instance().set_limit(bytes); }

std::size_t kept_bytes() { return Pool::instance().kept(); }

std::size_t release_kept() { return Pool::instance().release(); }

#else

MemoryBlock take_block(std::size_t) { return {}; }
void give_block(MemoryBlock) {}
void set_kept_limit(std::size_t) {}
std::size_t kept_bytes() { return 0; }
std::size_t release_kept() { return 0; }

#endif

}  // namespace fourreal::cpu

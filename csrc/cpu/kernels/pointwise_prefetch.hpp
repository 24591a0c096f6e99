// Fetches the entries of the next bundle while this one is computed, a few cache lines at a time: the misses that a core can
// wait for at once are few, and a burst of more would stop it.
#pragma once

#include <cstdint>

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

constexpr std::int64_t kCacheLine = 64;
// Depth of a product between two steps.
constexpr std::int64_t kPrefetchDepth = 4;

class Prefetcher {
public:
    // `rows` has room for the rows of the next bundle.
    Prefetcher(const char** rows, std::int64_t row_bytes) : rows_(rows), row_bytes_(row_bytes) {}

    void add(const void* row) { rows_[count_++] = static_cast<const char*>(row); }

    // All lines will be fetched within about `steps` steps.
    void spread_over(std::int64_t steps) {
        const std::int64_t lines = count_ * ((row_bytes_ + kCacheLine - 1) / kCacheLine);
        lines_per_step_ = (lines + steps - 1) / steps;
    }

    FOURREAL_ALWAYS_INLINE void step() {
        for (std::int64_t i = 0; i < lines_per_step_ && row_ < count_; ++i) {
            __builtin_prefetch(rows_[row_] + byte_);
            byte_ += kCacheLine;
            if (byte_ < row_bytes_) continue;
            byte_ = 0;
            ++row_;
        }
    }

private:
    const char** rows_;
    std::int64_t row_bytes_;
    std::int64_t count_ = 0;
    std::int64_t lines_per_step_ = 0;
    std::int64_t row_ = 0;
    std::int64_t byte_ = 0;
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

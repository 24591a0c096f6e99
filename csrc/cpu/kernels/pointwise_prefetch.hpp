// Fetches the entries of the next bundle while this one is computed, a few rows at a time: the misses that a core can wait
// for at once are few, and a burst of more would stop it.
#pragma once

#include <cstdint>

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

class Prefetcher {
public:
    // `rows` has room for the rows of the next bundle.
    Prefetcher(const char** rows, std::int64_t row_bytes) : rows_(rows), row_bytes_(row_bytes) {}

    // Where to write `added` more rows.
    const char** extend(std::int64_t added) {
        const char** const end = rows_ + count_;
        count_ += added;
        return end;
    }

    // All rows will be fetched within about `steps` steps.
    void spread_over(std::int64_t steps) { rows_per_step_ = (count_ + steps - 1) / steps; }

    FOURREAL_ALWAYS_INLINE void step() {
        const std::int64_t left = count_ - row_;
        const std::int64_t end = row_ + (left < rows_per_step_ ? left : rows_per_step_);
        for (; row_ < end; ++row_) {
            const char* line = rows_[row_];
            for (const char* const last = line + row_bytes_; line < last; line += kCacheLine) __builtin_prefetch(line);
        }
    }

private:
    const char** rows_;
    std::int64_t row_bytes_;
    std::int64_t count_ = 0;
    std::int64_t rows_per_step_ = 0;
    std::int64_t row_ = 0;
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

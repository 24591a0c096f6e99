// Rows that work to come will read, on their way into the cache beside the work that goes on: some at a time, as a burst of
// more would hold it up. The processor does not foresee them, as the order of the accesses is not that of the memory.
#pragma once

#include <cstdint>

#include "kernels/frame_attention.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

class RowsAhead {
public:
    // All are fetched after this many steps.
    RowsAhead(const Rows* rows, std::int64_t count, std::int64_t steps) : rows_(rows), end_(rows + count) {
        std::int64_t total = 0;
        for (const Rows* x = rows; x != end_; ++x) total += x->count;
        per_step_ = (total + steps - 1) / steps;
        enter();
    }

    FOURREAL_ALWAYS_INLINE void fetch_some() {
        constexpr int kSecondLevel = 2;
        for (std::int64_t n = per_step_; n > 0 && rows_ != end_; --n) {
            for (std::int64_t at = 0; at < bytes_; at += kCacheLine) __builtin_prefetch(row_ + at, 0, kSecondLevel);
            row_ += stride_;
            if (--left_ > 0) continue;
            ++rows_;
            enter();
        }
    }

private:
    void enter() {
        if (rows_ == end_) return;
        const std::int64_t size = element_size(rows_->dtype);
        row_ = static_cast<const char*>(rows_->first);
        stride_ = rows_->stride * size;
        bytes_ = rows_->channels * size;
        left_ = rows_->count;
    }

    const Rows* rows_;
    const Rows* end_;
    std::int64_t per_step_ = 0;
    const char* row_ = nullptr;
    std::int64_t stride_ = 0;
    std::int64_t bytes_ = 0;
    std::int64_t left_ = 0;
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

// Blocks of keys with the sums of their gradients, and their way into the cache.
#pragma once

#include <cstdint>

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

struct KeyBlock {
    const float* keys;
    const float* values;
    float* dk;
    float* dv;
    std::int64_t count;
};

// The block that follows, fetched some rows at a time beside the work on the one before: a burst of more would hold it up.
// The processor does not foresee it, as the order of the accesses in a block is not that of its memory.
class NextBlock {
public:
    NextBlock() = default;
    // Everything is fetched after this many steps.
    NextBlock(const KeyBlock& block, std::int64_t padded, std::int64_t stride, std::int64_t steps)
        : parts_{{block.keys, padded}, {block.values, padded}, {block.dk, stride}, {block.dv, stride}},
          rows_(block.count),
          rows_per_step_((kParts * block.count + steps - 1) / steps) {}

    FOURREAL_ALWAYS_INLINE void fetch_some() {
        constexpr int kSecondLevel = 2;
        for (std::int64_t n = rows_per_step_; n > 0 && part_ < kParts; --n) {
            Part& part = parts_[part_];
            for (std::int64_t d = 0; d < part.stride; d += kLineFloats) __builtin_prefetch(part.row + d, 0, kSecondLevel);
            part.row += part.stride;
            if (++row_ < rows_) continue;
            row_ = 0;
            ++part_;
        }
    }

private:
    static constexpr int kParts = 4;
    static constexpr std::int64_t kLineFloats = kCacheLine / sizeof(float);

    struct Part {
        const float* row;
        std::int64_t stride;
    };

    Part parts_[kParts];
    std::int64_t rows_ = 0;
    std::int64_t rows_per_step_ = 0;
    int part_ = 0;
    std::int64_t row_ = 0;  // of the part
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

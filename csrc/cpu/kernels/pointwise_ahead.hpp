// Fetches the rows of the next bundle while this one is computed, a few at a time: the misses that a core can wait for
// at once are few, and a burst of more would stop it.
#pragma once

#include <cstdint>

#include "kernels/pointwise_bundle.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// How long the steps of a kernel take, beside which rows are fetched: roughly in units of 64 cycles.
constexpr int kLoadWeight = 1;
constexpr int kStoreWeight = 1;
constexpr int kScoreWeight = 2;
constexpr int kMixWeight = 4;

class Ahead {
public:
    Ahead(const PointwiseShape& shape, const Bundle<kWidth>* upcoming)
        : upcoming_(upcoming), entries_(shape.entries), element_bytes_(element_size(shape.dtype)),
          row_bytes_(shape.channels * element_bytes_) {}

    void add(const PointwiseInput& tensor) {
        if (!upcoming_) return;
        std::int64_t offsets[kWidth];
        upcoming_->offsets(tensor, offsets);
        Rows& rows = tensors_[count_++];
        for (int lane = 0; lane < kWidth; ++lane)
            rows.base[lane] = static_cast<const char*>(tensor.data) + offsets[lane] * element_bytes_;
        rows.entries = tensor.entries;
    }

    // All rows will have been fetched after steps of this weight in all.
    void spread_over(std::int64_t weight) {
        left_ = count_ * entries_ * kWidth;
        per_weight_ = (left_ + weight - 1) / weight;
    }

    FOURREAL_ALWAYS_INLINE void step(int weight) {
        for (std::int64_t n = per_weight_ * weight; n > 0 && left_ > 0; --n, --left_) {
            const Rows& rows = tensors_[tensor_];
            const char* line = rows.base[lane_] + rows.entries[entry_] * element_bytes_;
            for (const char* const end = line + row_bytes_; line < end; line += kCacheLine)
                __builtin_prefetch(line, 0, kSecondLevel);
            if (++lane_ < kWidth) continue;
            lane_ = 0;
            if (++entry_ < entries_) continue;
            entry_ = 0;
            ++tensor_;
        }
    }

private:
    static constexpr int kSecondLevel = 2;  // the first has no room for a bundle
    static constexpr int kMaxTensors = 4;

    struct Rows {
        const char* base[kWidth];
        const std::int64_t* entries;
    };

    const Bundle<kWidth>* const upcoming_;
    const std::int64_t entries_, element_bytes_, row_bytes_;
    Rows tensors_[kMaxTensors];
    std::int64_t count_ = 0, left_ = 0, per_weight_ = 0;
    std::int64_t tensor_ = 0, entry_ = 0;
    int lane_ = 0;
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

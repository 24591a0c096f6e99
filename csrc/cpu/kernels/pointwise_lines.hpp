// Rows that end inside cache lines, written past the caches: those of positions side by side are collected first.
#pragma once

#include <cstdint>

#include "kernels/pointwise_positions.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

template <typename T, int kMost>
class Lines {
public:
    // Numbers of T in the memory that is needed.
    static std::int64_t size(const PointwiseShape& shape) { return shape.entries * shape.stream_together * shape.channels; }

    Lines(const PointwiseShape& shape, T* memory)
        : memory_(memory), entries_(shape.entries), channels_(shape.channels), together_(shape.stream_together) {}

    // Rows in place of those of the next position, which is at `offset` of the tensor.
    FOURREAL_ALWAYS_INLINE void point_at(std::int64_t offset, EntryRows<T, kMost>& rows) {
        if (collected_ == 0) first_offset_ = offset;
        T* const first = memory_ + collected_ * channels_;
        for (std::int64_t e = 0; e < entries_; ++e) rows.at[e] = first + e * together_ * channels_;
    }

    // After the rows were written.
    FOURREAL_ALWAYS_INLINE void advance(const PointwiseOutput& tensor) {
        if (++collected_ < together_) return;
        collected_ = 0;
        const std::int64_t length = together_ * channels_;
        T* const to = static_cast<T*>(tensor.data) + first_offset_;
        for (std::int64_t e = 0; e < entries_; ++e)
            for (std::int64_t c = 0; c < length; c += kWidth) stream(to + tensor.entries[e] + c, load(memory_ + e * length + c));
    }

private:
    T* const memory_;
    const std::int64_t entries_, channels_, together_;
    std::int64_t collected_ = 0;
    std::int64_t first_offset_ = 0;
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

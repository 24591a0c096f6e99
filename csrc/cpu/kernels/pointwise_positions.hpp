// Positions one after the other, with the rows of their entries in every tensor.
#pragma once

#include <cstdint>

#include "kernels/pointwise_job.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// The rows of the entries of a position in one tensor; T is const for inputs.
template <typename T, int kMost>
struct EntryRows {
    T* at[kMost];

    template <typename Pointer>
    FOURREAL_ALWAYS_INLINE void point_at(const PointwiseTensor<Pointer>& tensor, std::int64_t offset, std::int64_t entries) {
        T* const base = static_cast<T*>(tensor.data) + offset;
        for (std::int64_t e = 0; e < entries; ++e) at[e] = base + tensor.entries[e];
    }
};

template <int kTensors>
struct PositionOffsets {
    std::int64_t at[kTensors];
};

// Walks over positions first <= position < last: the offsets of each in some tensors.
template <int kTensors>
class PositionWalk {
public:
    PositionWalk(const PointwiseShape& shape, const std::int64_t* const (&strides)[kTensors], std::int64_t first,
                 std::int64_t last)
        : shape_(shape), left_(last - first) {
        for (int x = 0; x < kTensors; ++x) strides_[x] = strides[x], offsets_.at[x] = 0;
        for (int axis = kPositionAxes - 1; axis >= 0; --axis) {
            index_[axis] = first % shape.positions[axis];
            first /= shape.positions[axis];
            for (int x = 0; x < kTensors; ++x) offsets_.at[x] += index_[axis] * strides_[x][axis];
        }
    }

    bool done() const { return left_ <= 0; }
    const PositionOffsets<kTensors>& offsets() const { return offsets_; }

    FOURREAL_ALWAYS_INLINE void advance() {
        --left_;
        for (int axis = kPositionAxes - 1; axis >= 0; --axis) {
            for (int x = 0; x < kTensors; ++x) offsets_.at[x] += strides_[x][axis];
            if (++index_[axis] < shape_.positions[axis]) return;
            for (int x = 0; x < kTensors; ++x) offsets_.at[x] -= strides_[x][axis] * shape_.positions[axis];
            index_[axis] = 0;
        }
    }

private:
    const PointwiseShape& shape_;
    const std::int64_t* strides_[kTensors];
    std::int64_t index_[kPositionAxes];
    std::int64_t left_;
    PositionOffsets<kTensors> offsets_;
};

// Calls step(offsets, how far the next position lies ahead).
template <int kTensors, typename Step>
FOURREAL_ALWAYS_INLINE void for_each_position(PositionWalk<kTensors> walk, Step&& step) {
    while (!walk.done()) {
        const PositionOffsets<kTensors> now = walk.offsets();
        walk.advance();
        PositionOffsets<kTensors> ahead;
        for (int x = 0; x < kTensors; ++x) ahead.at[x] = walk.done() ? 0 : walk.offsets().at[x] - now.at[x];
        step(now, ahead);
    }
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

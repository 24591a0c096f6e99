// The positions along the outer axes of several tensors, as one number: neighbouring axes merged where every tensor
// allows it, and divided by multiplications.
#pragma once

#include <cstdint>

#include "fourreal/grid.hpp"

namespace fourreal {

// Divides numbers below 2^31 by a divisor from 1 to 2^31, as fixed when the launch is prepared.
struct Divisor {
    std::uint32_t divisor = 1;
    std::uint32_t multiplier = 1;
    std::uint32_t shift = 0;

    Divisor() = default;
    explicit Divisor(std::int64_t value) : divisor(static_cast<std::uint32_t>(value)) {
        while ((std::uint64_t{1} << shift) < divisor) ++shift;
        multiplier = static_cast<std::uint32_t>(
            (std::uint64_t{1} << 32) * ((std::uint64_t{1} << shift) - divisor) / divisor + 1);
    }

    FOURREAL_HOST_DEVICE std::uint32_t divide(std::uint32_t value) const {
        const auto high = static_cast<std::uint32_t>((std::uint64_t{value} * multiplier) >> 32);
        return (high + value) >> shift;
    }
};

// Axis kAxes - 1 is the innermost; an outer axis that is not needed has size 1.
template <int kAxes, int kOperands>
struct MergedAxes {
    Divisor sizes[kAxes];
    std::int64_t strides[kOperands][kAxes];

    // `offsets` receives where `position`, below the product of the sizes, lies in each tensor, in elements.
    FOURREAL_HOST_DEVICE void locate(std::uint32_t position, std::int64_t (&offsets)[kOperands]) const {
        for (int k = 0; k < kOperands; ++k) offsets[k] = 0;
        std::uint32_t rest = position;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
        for (int axis = kAxes - 1; axis >= 0; --axis) {
            if (sizes[axis].divisor == 1) continue;
            const std::uint32_t outer = sizes[axis].divide(rest);
            const auto index = static_cast<std::int64_t>(rest - outer * sizes[axis].divisor);
            for (int k = 0; k < kOperands; ++k) offsets[k] += index * strides[k][axis];
            rest = outer;
        }
    }
};

// `strides[k]` are tensor k's, in elements; the product of the sizes is below 2^31.
template <int kAxes, int kOperands>
MergedAxes<kAxes, kOperands> merge_axes(const std::int64_t (&sizes)[kAxes],
                                        const std::int64_t* const (&strides)[kOperands]) {
    MergedAxes<kAxes, kOperands> merged{};
    std::int64_t merged_sizes[kAxes];
    for (std::int64_t& size : merged_sizes) size = 1;
    int target = kAxes - 1;  // the merged axis being grown, from the innermost outwards
    for (int axis = kAxes - 1; axis >= 0; --axis) {
        if (sizes[axis] == 1) continue;
        if (merged_sizes[target] != 1) {
            bool mergeable = true;
            for (int k = 0; k < kOperands; ++k)
                mergeable = mergeable && strides[k][axis] == merged.strides[k][target] * merged_sizes[target];
            if (mergeable) {
                merged_sizes[target] *= sizes[axis];
                continue;
            }
            --target;
        }
        merged_sizes[target] = sizes[axis];
        for (int k = 0; k < kOperands; ++k) merged.strides[k][target] = strides[k][axis];
    }
    for (int axis = 0; axis < kAxes; ++axis) merged.sizes[axis] = Divisor(merged_sizes[axis]);
    return merged;
}

}  // namespace fourreal

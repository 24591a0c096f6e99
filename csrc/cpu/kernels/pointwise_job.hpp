// Pointwise attention as its kernels see it: positions, each with a short sequence of entries.
#pragma once

#include <cstdint>

#include "fourreal/dtype.hpp"
#include "simd/dispatch.hpp"

namespace fourreal::cpu {

// A position is one value of the axes that are not attended over: batch, views, timesteps, tokens, heads.
constexpr int kPositionAxes = 5;
// The most positions that a kernel takes side by side. Tasks begin at multiples of it.
constexpr int kMaxBundle = 16;

// `entries` holds the offsets of the entries of a sequence, in elements.
template <typename Pointer>
struct PointwiseTensor {
    Pointer data = nullptr;
    std::int64_t position_strides[kPositionAxes] = {};
    const std::int64_t* entries = nullptr;
};
using PointwiseInput = PointwiseTensor<const void*>;
using PointwiseOutput = PointwiseTensor<void*>;

// With `rows` > 1 the entries are a grid: entry row * (entries / rows) + column sees its row and its column. With 1
// each entry sees all.
struct PointwiseShape {
    std::int64_t positions[kPositionAxes];
    std::int64_t entries;
    std::int64_t rows;
    std::int64_t channels;
    float scale;
    DType dtype;
    bool stream;  // write the outputs past the caches: they are aligned, in whole vectors, and larger than the caches
    // If not 0: the same is possible for this many positions together, whose rows lie side by side and fill whole lines.
    std::int64_t stream_together;

    std::int64_t columns() const { return entries / rows; }
    std::int64_t position_count() const {
        std::int64_t count = 1;
        for (std::int64_t size : positions) count *= size;
        return count;
    }
};

struct PointwiseForward {
    PointwiseShape shape;
    PointwiseInput q, k, v;
    PointwiseOutput out, lse;
};

struct PointwiseBackward {
    PointwiseShape shape;
    PointwiseInput grad_out, grad_lse, q, k, v, out, lse;
    PointwiseOutput dq, dk, dv;
};

}  // namespace fourreal::cpu

// Each kernel handles positions first <= position < last with `scratch` floats of which its _scratch function gives the
// number; scratch is aligned to a cache line.
//
// Positions side by side in the lanes of a vector. out and lse of the backward pass are not read.
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_forward_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_forward,
                        (const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch))
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_backward_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_backward,
                        (const PointwiseBackward& job, std::int64_t first, std::int64_t last, float* scratch))
// One query after the other, with scratch for a few numbers per entry only: for sequences too long for the lanes.
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_long_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_long_forward,
                        (const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch))
FOURREAL_DECLARE_KERNEL(void, pointwise_long_backward,
                        (const PointwiseBackward& job, std::int64_t first, std::int64_t last, float* scratch))

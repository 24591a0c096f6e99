// Single groups of few entries, one position at a time, with keys in lanes: each number of the inputs is read once, and only
// keys are transposed, in fours of channels. Takes multiples of four channels.
#pragma once

#include "kernels/pointwise_job.hpp"

// The most entries.
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_entries, ())
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_short_forward,
                        (const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch))
// out and lse are not read.
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_backward_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_short_backward,
                        (const PointwiseBackward& job, std::int64_t first, std::int64_t last, float* scratch))

// Unions whose rows and columns are short.
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_union_entries, ())
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_union_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_short_union_forward,
                        (const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch))

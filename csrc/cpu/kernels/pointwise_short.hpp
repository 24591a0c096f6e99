// Single groups of so few entries that all scores of a query take half a vector. One position at a time, and nothing is
// transposed: with so little to compute it keeps more of the memory's bandwidth than positions in lanes do.
#pragma once

#include "kernels/pointwise_job.hpp"

FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_entries, ())
FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_short_forward,
                        (const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch))

// Single groups of few entries: no panels are transposed, each position is read once and written once.
#pragma once

#include "kernels/pointwise_job.hpp"

namespace fourreal::cpu {

// More entries than this are left to the kernels with panels.
constexpr std::int64_t kShortEntries = 32;

}  // namespace fourreal::cpu

FOURREAL_DECLARE_KERNEL(std::int64_t, pointwise_short_scratch, (const PointwiseShape& shape))
FOURREAL_DECLARE_KERNEL(void, pointwise_short_forward,
                        (const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch))

// The small matrix products of pointwise attention, on panels (see pointwise_bundle.hpp).
#pragma once

#include <cstdint>

#include "kernels/pointwise_prefetch.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// result[r][:] = (or +=) sum over k < depth of factors[r * row_step + k * depth_step] * terms[k * term_stride + :].
struct RowProduct {
    const float* factors;
    std::int64_t row_step;
    std::int64_t depth_step;
    const float* terms;
    std::int64_t term_stride;
    std::int64_t depth;
    float* result;
    std::int64_t result_stride;
    std::int64_t rows;
    std::int64_t columns;  // whole vectors
    bool accumulate;
    Prefetcher* ahead;
};

constexpr int kProductRows = 4;
constexpr int kProductVectors = kWidth == 16 ? 4 : kWidth == 8 ? 3 : 2;

// Steps of prefetching in a product.
inline std::int64_t steps_of(const RowProduct& p) {
    const std::int64_t rows = (p.rows + kProductRows - 1) / kProductRows;
    const std::int64_t columns = (p.columns + kProductVectors * kWidth - 1) / (kProductVectors * kWidth);
    return rows * columns;
}

void row_product(const RowProduct& p);

// scores[j][lane] = sum over c < channels of key j's number for the lane's position * queries[c][lane]. Number c of key j
// is a group of one number per position at keys + j * key_step + c * channel_step.
struct KeyScores {
    const float* keys;
    std::int64_t key_step;
    std::int64_t channel_step;
    std::int64_t key_count;
    const float* queries;
    std::int64_t lanes;
    std::int64_t channels;
    float* scores;
    Prefetcher* ahead;
};

constexpr int kScoreKeys = kWidth == 16 ? 8 : 4;
constexpr int kScoreVectors = 2;

// Longer sums are made of partial sums of this many products: rounding errors grow with the length of a sum.
constexpr std::int64_t kPartialSum = kWidth >= 8 ? 32 : 16;  // without fused multiply-adds each term is rounded twice

// Steps of prefetching in scores.
inline std::int64_t steps_of(const KeyScores& s) {
    const std::int64_t keys = (s.key_count + kScoreKeys - 1) / kScoreKeys;
    const std::int64_t lanes = (s.lanes + kScoreVectors * kWidth - 1) / (kScoreVectors * kWidth);
    return keys * lanes * ((s.channels + kPartialSum - 1) / kPartialSum);
}

// `group` positions share the lanes.
void key_scores(const KeyScores& s, int group);

}  // namespace fourreal::cpu::FOURREAL_SIMD

// The small matrix products of pointwise attention, on panels (see pointwise_bundle.hpp).
#pragma once

#include <cstdint>

#include "kernels/pointwise_prefetch.hpp"
#include "simd/simd.hpp"
#include "simd/tiles.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE void add_to(Tile<kRows, kVectors>& tile, const float* from, std::int64_t row_stride) {
    for (int r = 0; r < kRows; ++r)
        for (int x = 0; x < kVectors; ++x) tile.at[r][x] = tile.at[r][x] + load(from + r * row_stride + x * kWidth);
}

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

template <int kRows, int kVectors>
void product_tile(const RowProduct& p, std::int64_t row, std::int64_t column) {
    Tile<kRows, kVectors> tile;
    float* result = p.result + row * p.result_stride + column;
    tile.clear();
    const float* factors = p.factors + row * p.row_step;
    const float* terms = p.terms + column;
    for (std::int64_t done = 0; done < p.depth; done += kPrefetchDepth) {
        const std::int64_t depth = p.depth - done < kPrefetchDepth ? p.depth - done : kPrefetchDepth;
        tile.multiply_add(factors, p.row_step, p.depth_step, terms, p.term_stride, depth);
        factors += kPrefetchDepth * p.depth_step;
        terms += kPrefetchDepth * p.term_stride;
        p.ahead->step();
    }
    if (p.accumulate) add_to(tile, result, p.result_stride);
    tile.store_to(result, p.result_stride);
}

template <int kVectors>
void product_columns(const RowProduct& p, std::int64_t column) {
    std::int64_t row = 0;
    for (; row + kProductRows <= p.rows; row += kProductRows) product_tile<kProductRows, kVectors>(p, row, column);
    switch (p.rows - row) {
        case 3: return product_tile<3, kVectors>(p, row, column);
        case 2: return product_tile<2, kVectors>(p, row, column);
        case 1: return product_tile<1, kVectors>(p, row, column);
        default: return;
    }
}

// Steps of prefetching in a product.
inline std::int64_t steps_of(const RowProduct& p) {
    const std::int64_t rows = (p.rows + kProductRows - 1) / kProductRows;
    const std::int64_t columns = (p.columns + kProductVectors * kWidth - 1) / (kProductVectors * kWidth);
    return rows * columns * ((p.depth + kPrefetchDepth - 1) / kPrefetchDepth);
}

inline void row_product(const RowProduct& p) {
    std::int64_t column = 0;
    for (; column + kProductVectors * kWidth <= p.columns; column += kProductVectors * kWidth)
        product_columns<kProductVectors>(p, column);
    switch ((p.columns - column) / kWidth) {
        case 3: return product_columns<(kProductVectors > 3 ? 3 : 1)>(p, column);
        case 2: return product_columns<(kProductVectors > 2 ? 2 : 1)>(p, column);
        case 1: return product_columns<1>(p, column);
        default: return;
    }
}

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

template <int kGroup, int kKeys, int kVectors>
void score_tile(const KeyScores& s, std::int64_t key, std::int64_t lane) {
    float* scores = s.scores + key * s.lanes + lane;
    const float* keys = s.keys + key * s.key_step;
    for (std::int64_t first = 0; first < s.channels; first += kPartialSum) {
        const std::int64_t last = s.channels - first < kPartialSum ? s.channels : first + kPartialSum;
        Tile<kKeys, kVectors> tile;
        tile.clear();
        for (std::int64_t c = first; c < last; ++c) {
            Vec queries[kVectors];
            for (int x = 0; x < kVectors; ++x) queries[x] = load(s.queries + c * s.lanes + lane + x * kWidth);
            for (int j = 0; j < kKeys; ++j) {
                const Vec factor = broadcast_group<kGroup>(keys + j * s.key_step + c * s.channel_step);
                for (int x = 0; x < kVectors; ++x) tile.at[j][x] = fmadd(factor, queries[x], tile.at[j][x]);
            }
            if (c % kPrefetchDepth == 0) s.ahead->step();
        }
        if (first > 0) add_to(tile, scores, s.lanes);
        tile.store_to(scores, s.lanes);
    }
}

template <int kGroup, int kVectors>
void score_keys(const KeyScores& s, std::int64_t lane) {
    std::int64_t key = 0;
    for (; key + kScoreKeys <= s.key_count; key += kScoreKeys) score_tile<kGroup, kScoreKeys, kVectors>(s, key, lane);
    switch (s.key_count - key) {
        case 7: return score_tile<kGroup, (kScoreKeys > 7 ? 7 : 1), kVectors>(s, key, lane);
        case 6: return score_tile<kGroup, (kScoreKeys > 6 ? 6 : 1), kVectors>(s, key, lane);
        case 5: return score_tile<kGroup, (kScoreKeys > 5 ? 5 : 1), kVectors>(s, key, lane);
        case 4: return score_tile<kGroup, (kScoreKeys > 4 ? 4 : 1), kVectors>(s, key, lane);
        case 3: return score_tile<kGroup, 3, kVectors>(s, key, lane);
        case 2: return score_tile<kGroup, 2, kVectors>(s, key, lane);
        case 1: return score_tile<kGroup, 1, kVectors>(s, key, lane);
        default: return;
    }
}

// Steps of prefetching in scores.
inline std::int64_t steps_of(const KeyScores& s) {
    const std::int64_t keys = (s.key_count + kScoreKeys - 1) / kScoreKeys;
    const std::int64_t lanes = (s.lanes + kScoreVectors * kWidth - 1) / (kScoreVectors * kWidth);
    return keys * lanes * ((s.channels + kPrefetchDepth - 1) / kPrefetchDepth);
}

inline void key_scores(const KeyScores& s, int group) {
    if (group == 4) return score_keys<4, 1>(s, 0);
    if (group == 2 && s.lanes == kWidth) return score_keys<2, 1>(s, 0);
    std::int64_t lane = 0;
    for (; lane + kScoreVectors * kWidth <= s.lanes; lane += kScoreVectors * kWidth)
        score_keys<1, kScoreVectors>(s, lane);
    if (lane < s.lanes) score_keys<1, 1>(s, lane);
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

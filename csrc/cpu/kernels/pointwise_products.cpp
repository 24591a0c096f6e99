#include "kernels/pointwise_products.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// Sums of a product that stay in registers: the loops have to be unrolled before the compiler decides what lives in memory.
template <int kRows, int kVectors>
struct Sums {
    Vec at[kRows][kVectors];

    FOURREAL_ALWAYS_INLINE void clear() {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
            for (int x = 0; x < kVectors; ++x) at[r][x] = zero();
    }

    FOURREAL_ALWAYS_INLINE void add(const float* from, std::int64_t row_stride) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
            for (int x = 0; x < kVectors; ++x) at[r][x] = at[r][x] + load(from + r * row_stride + x * kWidth);
    }

    FOURREAL_ALWAYS_INLINE void add(const Sums& other) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
            for (int x = 0; x < kVectors; ++x) at[r][x] = at[r][x] + other.at[r][x];
    }

    FOURREAL_ALWAYS_INLINE void store_to(float* to, std::int64_t row_stride) const {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
            for (int x = 0; x < kVectors; ++x) store(to + r * row_stride + x * kWidth, at[r][x]);
    }

    // at[r][:] += the numbers at factors + r * row_step, repeated over the lanes, times terms[:].
    template <int kGroup>
    FOURREAL_ALWAYS_INLINE void add_product(const float* factors, std::int64_t row_step, const float* terms) {
        Vec term[kVectors];
#pragma GCC unroll 8
        for (int x = 0; x < kVectors; ++x) term[x] = load(terms + x * kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const Vec factor = broadcast_group<kGroup>(factors + r * row_step);
#pragma GCC unroll 8
            for (int x = 0; x < kVectors; ++x) at[r][x] = fmadd(factor, term[x], at[r][x]);
        }
    }
};

template <int kRows, int kVectors>
void product_tile(const RowProduct& p, std::int64_t row, std::int64_t column) {
    const std::int64_t row_step = p.row_step, depth_step = p.depth_step, term_stride = p.term_stride;
    const float* factors = p.factors + row * row_step;
    const float* terms = p.terms + column;
    Sums<kRows, kVectors> sums;
    sums.clear();
    for (std::int64_t k = 0; k < p.depth; ++k, factors += depth_step, terms += term_stride)
        sums.template add_product<1>(factors, row_step, terms);
    p.ahead->step();
    float* const result = p.result + row * p.result_stride + column;
    if (p.accumulate) sums.add(result, p.result_stride);
    sums.store_to(result, p.result_stride);
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

template <int kGroup, int kKeys, int kVectors>
void score_tile(const KeyScores& s, std::int64_t key, std::int64_t lane) {
    float* scores = s.scores + key * s.lanes + lane;
    const float* keys = s.keys + key * s.key_step;
    const float* queries = s.queries + lane;
    const std::int64_t key_step = s.key_step, channel_step = s.channel_step, lanes = s.lanes;
    for (std::int64_t first = 0; first < s.channels; first += kPartialSum) {
        const std::int64_t part = s.channels - first < kPartialSum ? s.channels - first : kPartialSum;
        // One vector of lanes alone would wait for its own sums: even and odd channels have sums of their own.
        Sums<kKeys, kVectors> sums, odd;
        sums.clear();
        odd.clear();
        std::int64_t c = 0;
        for (; c + 2 <= part; c += 2, keys += 2 * channel_step, queries += 2 * lanes) {
            sums.template add_product<kGroup>(keys, key_step, queries);
            (kVectors == 1 ? odd : sums).template add_product<kGroup>(keys + channel_step, key_step, queries + lanes);
        }
        if (c < part) {
            sums.template add_product<kGroup>(keys, key_step, queries);
            keys += channel_step;
            queries += lanes;
        }
        s.ahead->step();
        if (kVectors == 1) sums.add(odd);
        if (first > 0) sums.add(scores, lanes);
        sums.store_to(scores, lanes);
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

}  // namespace

void row_product(const RowProduct& p) {
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

void key_scores(const KeyScores& s, int group) {
    if (group == 4) return score_keys<4, 1>(s, 0);
    if (group == 2 && s.lanes == kWidth) return score_keys<2, 1>(s, 0);
    std::int64_t lane = 0;
    for (; lane + kScoreVectors * kWidth <= s.lanes; lane += kScoreVectors * kWidth)
        score_keys<1, kScoreVectors>(s, lane);
    if (lane < s.lanes) score_keys<1, 1>(s, lane);
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

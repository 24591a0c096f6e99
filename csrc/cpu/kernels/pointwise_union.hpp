// The panels of unions: each row of entries has lane panels of its own, in which columns lie in lanes.
//
// Row scores are those of a query with the keys of its row; column scores are those with the keys of its column, of which
// its own is left out. For the query of row r in lane l they are row_scores[r][key column][l], column_scores[r][key row][l].
#pragma once

#include <cstdint>

#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_products.hpp"
#include "kernels/pointwise_softmax.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

struct UnionSizes {
    std::int64_t rows, columns, entries, channels;
    int group;            // positions side by side
    std::int64_t lanes;   // of all columns of a group
    std::int64_t stride;  // of row panels

    explicit UnionSizes(const PointwiseShape& shape)
        : rows(shape.rows),
          columns(shape.columns()),
          entries(shape.entries),
          channels(shape.channels),
          group(group_for(columns)),
          lanes(whole_vectors(columns * group)),
          stride(whole_vectors(channels)) {}

    std::int64_t lane_panel() const { return stride * lanes; }
    std::int64_t lane_panels() const { return rows * lane_panel(); }
    std::int64_t row_panel() const { return group * entries * stride; }
    std::int64_t row_scores() const { return rows * columns * lanes; }
    std::int64_t column_scores() const { return rows * rows * lanes; }

    float* entry(float* panel, int g, std::int64_t row, std::int64_t column) const {
        return panel + ((g * rows + row) * columns + column) * stride;
    }
};

// All entries as lane panels and, unless `row_panel` is null, as a row panel too.
template <typename T>
void load_union_lanes(const Sequences<const T>& from, const UnionSizes& sizes, float* panels, float* row_panel) {
    for (std::int64_t r = 0; r < sizes.rows; ++r)
        load_lanes(from, sizes.group, r * sizes.columns, sizes.columns, sizes.channels, sizes.lanes,
                   panels + r * sizes.lane_panel(), row_panel, r * sizes.columns, sizes.entries);
}

constexpr int kColumnQueries = kWidth == 16 ? 4 : 2;
constexpr int kColumnKeys = 4;
constexpr std::int64_t kColumnStep = 32;  // channels between two steps of prefetching

// Products of queries and keys of the same lane: sums over c of queries[r][c][lane] * keys[k][c][lane].
template <int kQueries, int kKeys>
FOURREAL_ALWAYS_INLINE void column_tile(const UnionSizes& sizes, const float* queries, const float* keys, float* scores,
                                        Prefetcher& ahead) {
    Vec sums[kQueries][kKeys];
    for (int q = 0; q < kQueries; ++q)
        for (int k = 0; k < kKeys; ++k) sums[q][k] = zero();
    for (std::int64_t c = 0; c < sizes.channels; ++c) {
        Vec key[kKeys];
        for (int k = 0; k < kKeys; ++k) key[k] = load(keys + k * sizes.lane_panel() + c * sizes.lanes);
        for (int q = 0; q < kQueries; ++q) {
            const Vec query = load(queries + q * sizes.lane_panel() + c * sizes.lanes);
            for (int k = 0; k < kKeys; ++k) sums[q][k] = fmadd(query, key[k], sums[q][k]);
        }
        if (c % kColumnStep == 0) ahead.step();
    }
    for (int q = 0; q < kQueries; ++q)
        for (int k = 0; k < kKeys; ++k) store(scores + (q * sizes.rows + k) * sizes.lanes, sums[q][k]);
}

template <int kQueries>
void column_tiles(const UnionSizes& sizes, const float* queries, const float* keys, float* scores, Prefetcher& ahead) {
    std::int64_t k = 0;
    for (; k + kColumnKeys <= sizes.rows; k += kColumnKeys)
        column_tile<kQueries, kColumnKeys>(sizes, queries, keys + k * sizes.lane_panel(), scores + k * sizes.lanes, ahead);
    for (; k < sizes.rows; ++k)
        column_tile<kQueries, 1>(sizes, queries, keys + k * sizes.lane_panel(), scores + k * sizes.lanes, ahead);
}

inline void column_products(const UnionSizes& sizes, const float* queries, const float* keys, float* scores,
                            Prefetcher& ahead) {
    for (std::int64_t lane = 0; lane < sizes.lanes; lane += kWidth) {
        std::int64_t q = 0;
        for (; q + kColumnQueries <= sizes.rows; q += kColumnQueries)
            column_tiles<kColumnQueries>(sizes, queries + q * sizes.lane_panel() + lane, keys + lane,
                                         scores + q * sizes.rows * sizes.lanes + lane, ahead);
        for (; q < sizes.rows; ++q)
            column_tiles<1>(sizes, queries + q * sizes.lane_panel() + lane, keys + lane,
                            scores + q * sizes.rows * sizes.lanes + lane, ahead);
    }
}

struct UnionScores {
    float* of_rows;
    float* of_columns;
};

// Products of all queries with all keys that they see, from lane panels.
inline void union_products(const UnionSizes& sizes, const float* queries, const float* keys, const UnionScores& scores,
                           Prefetcher& ahead) {
    for (std::int64_t r = 0; r < sizes.rows; ++r)
        key_scores({keys + r * sizes.lane_panel(), sizes.group, sizes.lanes, sizes.columns,
                    queries + r * sizes.lane_panel(), sizes.lanes, sizes.channels,
                    scores.of_rows + r * sizes.columns * sizes.lanes, &ahead},
                   sizes.group);
    column_products(sizes, queries, keys, scores.of_columns, ahead);
}

// The scores of the queries of row `row` in one vector: those of its row, and those of its columns above and below.
struct UnionColumns {
    static constexpr int kParts = 3;
    ScoreColumn parts[kParts];
    float* own;

    UnionColumns(const UnionSizes& sizes, const UnionScores& scores, std::int64_t row, std::int64_t lane) {
        float* const column = scores.of_columns + row * sizes.rows * sizes.lanes + lane;
        own = column + row * sizes.lanes;
        parts[0] = {scores.of_rows + row * sizes.columns * sizes.lanes + lane, sizes.columns, sizes.lanes};
        parts[1] = {column, row, sizes.lanes};
        parts[2] = {own + sizes.lanes, sizes.rows - row - 1, sizes.lanes};
    }
};

// Scores to probabilities, 0 where a query would meet its own key again; `lse` is [row][lane].
inline void union_softmax(const UnionSizes& sizes, const UnionScores& scores, float scale, float* lse) {
    const Vec factor = broadcast(scale * kLog2E);
    for (std::int64_t r = 0; r < sizes.rows; ++r)
        for (std::int64_t lane = 0; lane < sizes.lanes; lane += kWidth) {
            const UnionColumns columns(sizes, scores, r, lane);
            Vec largest = lowest(), sum = zero();
            for (const ScoreColumn& part : columns.parts) largest = part.largest(factor, largest);
            for (const ScoreColumn& part : columns.parts) sum = part.exponentiate(factor, largest, sum);
            for (const ScoreColumn& part : columns.parts) part.multiply(broadcast(1.0f) / sum);
            store(columns.own, zero());
            store(lse + r * sizes.lanes + lane, log_sum(largest, sum));
        }
}

// dP to gradients of the raw products q . k, in place; `grad_lse` is [row][lane].
inline void union_softmax_gradient(const UnionSizes& sizes, const UnionScores& grads, const UnionScores& probabilities,
                                   float scale, const float* grad_lse) {
    for (std::int64_t r = 0; r < sizes.rows; ++r)
        for (std::int64_t lane = 0; lane < sizes.lanes; lane += kWidth) {
            const UnionColumns grad(sizes, grads, r, lane), p(sizes, probabilities, r, lane);
            Vec offset = zero() - load(grad_lse + r * sizes.lanes + lane);
            for (int i = 0; i < UnionColumns::kParts; ++i) offset = p.parts[i].dot(grad.parts[i], offset);
            for (int i = 0; i < UnionColumns::kParts; ++i)
                grad.parts[i].to_score_gradients(p.parts[i], offset, broadcast(scale));
            store(grad.own, zero());
        }
}

// result(query) = sum over the keys that it sees of weights * terms(key); row panels.
inline void union_gather(const UnionSizes& sizes, int g, const UnionScores& weights, float* terms, float* result,
                         Prefetcher& ahead) {
    const std::int64_t lanes = sizes.lanes, stride = sizes.stride;
    for (std::int64_t r = 0; r < sizes.rows; ++r)
        row_product({weights.of_rows + r * sizes.columns * lanes + g, sizes.group, lanes, sizes.entry(terms, g, r, 0),
                     stride, sizes.columns, sizes.entry(result, g, r, 0), stride, sizes.columns, stride, false, &ahead});
    for (std::int64_t c = 0; c < sizes.columns; ++c)
        row_product({weights.of_columns + c * sizes.group + g, sizes.rows * lanes, lanes, sizes.entry(terms, g, 0, c),
                     sizes.columns * stride, sizes.rows, sizes.entry(result, g, 0, c), sizes.columns * stride, sizes.rows,
                     stride, true, &ahead});
}

// result(key) = sum over the queries that see it of weights * terms(query); row panels.
inline void union_scatter(const UnionSizes& sizes, int g, const UnionScores& weights, float* terms, float* result,
                          Prefetcher& ahead) {
    const std::int64_t lanes = sizes.lanes, stride = sizes.stride;
    for (std::int64_t r = 0; r < sizes.rows; ++r)
        row_product({weights.of_rows + r * sizes.columns * lanes + g, lanes, sizes.group, sizes.entry(terms, g, r, 0),
                     stride, sizes.columns, sizes.entry(result, g, r, 0), stride, sizes.columns, stride, false, &ahead});
    for (std::int64_t c = 0; c < sizes.columns; ++c)
        row_product({weights.of_columns + c * sizes.group + g, lanes, sizes.rows * lanes, sizes.entry(terms, g, 0, c),
                     sizes.columns * stride, sizes.rows, sizes.entry(result, g, 0, c), sizes.columns * stride, sizes.rows,
                     stride, true, &ahead});
}

// Steps of prefetching in union_products and in one union_gather or union_scatter per position, about.
inline std::int64_t union_product_steps(const UnionSizes& sizes) {
    const std::int64_t vectors = sizes.lanes / kWidth;
    const std::int64_t row_tiles = (sizes.columns + kScoreKeys - 1) / kScoreKeys * ((vectors + 1) / kScoreVectors);
    const std::int64_t column_tiles = sizes.rows * sizes.rows / (kColumnQueries * kColumnKeys) * vectors;
    return sizes.rows * row_tiles * ((sizes.channels + kPartialSum - 1) / kPartialSum) +
           column_tiles * (sizes.channels / kColumnStep) + 1;
}

inline std::int64_t union_gather_steps(const UnionSizes& sizes) {
    const std::int64_t vectors = (sizes.stride + kProductVectors * kWidth - 1) / (kProductVectors * kWidth);
    return 2 * sizes.group * (sizes.entries / kProductRows) * vectors + 1;
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

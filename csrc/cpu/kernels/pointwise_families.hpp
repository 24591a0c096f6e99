// Which entries see each other: all of them, or, in a union, those of each row and those of each column.
#pragma once

#include <cstdint>

#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_softmax.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// Entries first, first + step, ... which all see each other. Their scores are a square of vectors, a row per query.
struct Family {
    std::int64_t first;
    std::int64_t step;
    std::int64_t count;
    std::int64_t scores;  // where they begin
};

class Families {
public:
    explicit Families(const PointwiseShape& shape)
        : rows_(shape.rows), columns_(shape.columns()), of_columns_(shape.entries * columns_ * kWidth) {}

    // Floats of the scores of all families.
    std::int64_t score_count() const { return rows_ == 1 ? of_columns_ : of_columns_ + entries() * rows_ * kWidth; }

    // Those of rows come first: each entry is in one.
    template <typename Visit>
    FOURREAL_ALWAYS_INLINE void for_rows(const Visit& visit) const {
        for (std::int64_t r = 0; r < rows_; ++r)
            visit(Family{r * columns_, 1, columns_, r * columns_ * columns_ * kWidth});
    }

    template <typename Visit>
    FOURREAL_ALWAYS_INLINE void for_columns(const Visit& visit) const {
        if (rows_ == 1) return;
        for (std::int64_t c = 0; c < columns_; ++c)
            visit(Family{c, columns_, rows_, of_columns_ + c * rows_ * rows_ * kWidth});
    }

    // Calls visit(column of a, the same of b) for the scores of an entry as a query: with its row, and with the others
    // of its column.
    template <typename Visit>
    FOURREAL_ALWAYS_INLINE void for_scores(float* a, float* b, std::int64_t entry, const Visit& visit) const {
        const auto both = [&](std::int64_t at, std::int64_t count) {
            visit(ScoreColumn{a + at, count}, ScoreColumn{b + at, count});
        };
        both(entry * columns_ * kWidth, columns_);
        if (rows_ == 1) return;
        const std::int64_t column = column_of(entry), row = entry / columns_;
        both(column, row);
        both(column + (row + 1) * kWidth, rows_ - row - 1);
    }

    // The score of an entry with itself counts in its row: in its column it becomes 0.
    FOURREAL_ALWAYS_INLINE void drop_own(float* scores, std::int64_t entry) const {
        if (rows_ > 1) store(scores + column_of(entry) + entry / columns_ * kWidth, zero());
    }

private:
    std::int64_t entries() const { return rows_ * columns_; }

    std::int64_t column_of(std::int64_t entry) const {
        return of_columns_ + (entry % columns_ * rows_ + entry / columns_) * rows_ * kWidth;
    }

    const std::int64_t rows_, columns_, of_columns_;
};

// Scores to probabilities; `lse` gets a vector per entry.
inline void softmax(const Families& families, const PointwiseShape& shape, float* scores, float* lse) {
    const Vec factor = broadcast(shape.scale * kLog2E);
    for (std::int64_t e = 0; e < shape.entries; ++e) {
        Vec largest = lowest(), sum = zero();
        const auto each = [&](const auto& step) { families.for_scores(scores, scores, e, step); };
        each([&](ScoreColumn column, ScoreColumn) { largest = column.largest(factor, largest); });
        each([&](ScoreColumn column, ScoreColumn) { sum = column.exponentiate(factor, largest, sum); });
        const Vec inverse = broadcast(1.0f) / sum;
        each([&](ScoreColumn column, ScoreColumn) { column.multiply(inverse); });
        families.drop_own(scores, e);
        store(lse + e * kWidth, log_sum(largest, sum));
    }
}

// dP to gradients of the products q . k, in place; `grad_lse` has a vector per entry.
inline void softmax_gradient(const Families& families, const PointwiseShape& shape, float* probabilities,
                             const float* grad_lse, float* grads) {
    const Vec scale = broadcast(shape.scale);
    for (std::int64_t e = 0; e < shape.entries; ++e) {
        Vec offset = zero() - load(grad_lse + e * kWidth);
        const auto each = [&](const auto& step) { families.for_scores(probabilities, grads, e, step); };
        each([&](ScoreColumn p, ScoreColumn grad) { offset = p.dot(grad, offset); });
        each([&](ScoreColumn p, ScoreColumn grad) { grad.to_score_gradients(p, offset, scale); });
        families.drop_own(grads, e);
    }
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

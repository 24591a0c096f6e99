// Softmax down columns of scores: a lane for each position, a vector for each key.
#pragma once

#include <cstdint>

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// Weights are at least 2^-100 of the largest: no sum tells that from 0, and numbers near the smallest are very slow.
constexpr float kSmallestExponent = -100.0f;

// 2^(score * factor - largest), 2^-100 for anything below that; NaN stays NaN.
FOURREAL_ALWAYS_INLINE Vec weight(Vec score, Vec factor, Vec largest) {
    return exp2(max(broadcast(kSmallestExponent), fmadd(score, factor, zero() - largest)));
}

// The scores of a query with some keys, one vector each.
struct ScoreColumn {
    float* at;
    std::int64_t count;

    FOURREAL_ALWAYS_INLINE Vec largest(Vec factor, Vec start) const {
        for (std::int64_t j = 0; j < count; ++j) start = max(start, load(at + j * kWidth) * factor);
        return start;
    }

    // Replaces scores by weights and returns `sum` plus their sum.
    FOURREAL_ALWAYS_INLINE Vec exponentiate(Vec factor, Vec largest, Vec sum) const {
        for (std::int64_t j = 0; j < count; ++j) {
            const Vec w = weight(load(at + j * kWidth), factor, largest);
            store(at + j * kWidth, w);
            sum = sum + w;
        }
        return sum;
    }

    FOURREAL_ALWAYS_INLINE void multiply(Vec factor) const {
        for (std::int64_t j = 0; j < count; ++j) store(at + j * kWidth, load(at + j * kWidth) * factor);
    }

    // Sum over the keys of this column times `other`'s.
    FOURREAL_ALWAYS_INLINE Vec dot(const ScoreColumn& other, Vec sum) const {
        for (std::int64_t j = 0; j < count; ++j)
            sum = fmadd(load(at + j * kWidth), load(other.at + j * kWidth), sum);
        return sum;
    }

    // This column holds dP and becomes the gradients of the products q . k: probabilities * (dP - offset) * scale.
    FOURREAL_ALWAYS_INLINE void to_score_gradients(const ScoreColumn& probabilities, Vec offset, Vec scale) const {
        for (std::int64_t j = 0; j < count; ++j) {
            const Vec p = load(probabilities.at + j * kWidth);
            store(at + j * kWidth, p * (load(at + j * kWidth) - offset) * scale);
        }
    }
};

FOURREAL_ALWAYS_INLINE Vec lowest() { return broadcast(-__builtin_inff()); }

FOURREAL_ALWAYS_INLINE Vec log_sum(Vec largest, Vec sum) {
    return fmadd(largest, broadcast(kLn2), natural_log(sum));
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

// Products among the entries of a family, for kWidth positions at once: every operand is a vector, nothing is
// broadcast.
#pragma once

#include "kernels/pointwise_families.hpp"
#include "kernels/pointwise_panels.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// scores[i][j] = the sum over the channels of a panel of a[i] * b[j], in every family; added to what is there unless
// the channels are the first.
void add_products(const Families& families, const float* a, const float* b, const Channels& channels, float* scores,
                  Ahead& ahead);

// Weights of members i and j of a family: scores[i][j], or scores[j][i] if `transposed`.
struct Weights {
    const float* scores;
    bool transposed;
};

// result[i] = the sum over j, in the families of i, of its weight * x[j], for the channels of a panel.
void mix(const Families& families, Weights weights, const float* x, const Channels& channels, float* result,
         Ahead& ahead);

// What the steps of one of each weigh in all.
std::int64_t products_weight(const Families& families);
std::int64_t mix_weight(const Families& families);

}  // namespace fourreal::cpu::FOURREAL_SIMD

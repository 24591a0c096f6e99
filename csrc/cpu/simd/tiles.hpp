// Register tiles of small matrix products, the inner loops of attention. Row r of a tile is kVectors vectors of columns.
#pragma once

#include <cstdint>

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

template <int kRows, int kVectors>
struct Tile {
    Vec at[kRows][kVectors];

    FOURREAL_ALWAYS_INLINE void clear() {
        for (int r = 0; r < kRows; ++r)
            for (int x = 0; x < kVectors; ++x) at[r][x] = zero();
    }

    FOURREAL_ALWAYS_INLINE void store_to(float* to, std::int64_t row_stride) const {
        for (int r = 0; r < kRows; ++r)
            for (int x = 0; x < kVectors; ++x) store(to + r * row_stride + x * kWidth, at[r][x]);
    }

    // to += the tile: sums of long products are formed in parts, whose rounding errors are smaller than those of one chain.
    FOURREAL_ALWAYS_INLINE void add_to(float* to, std::int64_t row_stride) const {
        for (int r = 0; r < kRows; ++r)
            for (int x = 0; x < kVectors; ++x) {
                float* const sum = to + r * row_stride + x * kWidth;
                store(sum, load(sum) + at[r][x]);
            }
    }

    // at[r][:] += sum over k < depth of a[r * row_step + k * depth_step] * b[k * b_stride + :].
    FOURREAL_ALWAYS_INLINE void multiply_add(const float* a, std::int64_t row_step, std::int64_t depth_step,
                                             const float* b, std::int64_t b_stride, std::int64_t depth) {
#pragma GCC unroll 2
        for (std::int64_t k = 0; k < depth; ++k) {
            Vec columns[kVectors];
            for (int x = 0; x < kVectors; ++x) columns[x] = load(b + k * b_stride + x * kWidth);
            for (int r = 0; r < kRows; ++r) {
                const Vec factor = broadcast(a[r * row_step + k * depth_step]);
                for (int x = 0; x < kVectors; ++x) at[r][x] = fmadd(factor, columns[x], at[r][x]);
            }
        }
    }
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

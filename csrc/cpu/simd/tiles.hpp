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

    FOURREAL_ALWAYS_INLINE void load_from(const float* from, std::int64_t row_stride) {
        for (int r = 0; r < kRows; ++r)
            for (int x = 0; x < kVectors; ++x) at[r][x] = load(from + r * row_stride + x * kWidth);
    }
};

// Rounding errors grow with the length of a chain of sums.
constexpr std::int64_t kLongestChain = 128;

// sums <- the products of a tile, formed in parts. Not inlined: the accumulators of two parts do not fit into registers.
template <int kRows, int kVectors>
[[gnu::noinline]] void long_products(const float* a, std::int64_t row_step, std::int64_t depth_step, const float* b,
                                     std::int64_t b_stride, std::int64_t depth, float* sums) {
    for (std::int64_t k = 0; k < depth; k += kLongestChain) {
        Tile<kRows, kVectors> part;
        part.clear();
        part.multiply_add(a + k * depth_step, row_step, depth_step, b + k * b_stride, b_stride,
                          depth - k < kLongestChain ? depth - k : kLongestChain);
        if (k == 0)
            part.store_to(sums, kVectors * kWidth);
        else
            part.add_to(sums, kVectors * kWidth);
    }
}

// Tile::multiply_add from nothing, for any depth.
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE Tile<kRows, kVectors> products_of(const float* a, std::int64_t row_step, std::int64_t depth_step,
                                                         const float* b, std::int64_t b_stride, std::int64_t depth) {
    Tile<kRows, kVectors> tile;
    if (depth <= kLongestChain) {
        tile.clear();
        tile.multiply_add(a, row_step, depth_step, b, b_stride, depth);
    } else {
        float sums[kRows * kVectors * kWidth];
        long_products<kRows, kVectors>(a, row_step, depth_step, b, b_stride, depth, sums);
        tile.load_from(sums, kVectors * kWidth);
    }
    return tile;
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

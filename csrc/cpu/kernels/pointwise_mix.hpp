// Weighted sums of the rows of one position: outputs from values, gradients from each other's inputs.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/pointwise_quads.hpp"
#include "simd/tiles.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// A tile of a few vectors from channel `first` on; its last vector holds `tail` numbers, or is whole if that is 0.
struct Columns {
    std::int64_t first;
    int tail;
};

// Calls visit(columns, number of vectors as a constant) for all channels.
template <typename Visit>
FOURREAL_ALWAYS_INLINE void for_columns(std::int64_t channels, const Visit& visit) {
    std::int64_t left = (channels + kWidth - 1) / kWidth, first = 0;
    const auto take = [&](auto vectors) {
        left -= vectors;
        visit(Columns{first, left == 0 ? static_cast<int>(channels % kWidth) : 0}, vectors);
        first += vectors * kWidth;
    };
    while (left > 0) {
        if (kTileVectors >= 3 && (left == 3 || left > 4))
            take(std::integral_constant<int, 3>());
        else if (left >= 2)
            take(std::integral_constant<int, 2>());
        else
            take(std::integral_constant<int, 1>());
    }
}

// Sum r takes row k with at[r * sum_step + k * row_step].
struct Weights {
    const float* at;
    std::int64_t sum_step, row_step;
};

// Sums for kGroupKeys entries, or keys, at a time.
template <int kColumns>
struct Mixed {
    Tile<kGroupKeys, kColumns> tile;

    FOURREAL_ALWAYS_INLINE Mixed() { tile.clear(); }

    template <typename T>
    FOURREAL_ALWAYS_INLINE void add(const Weights& weights, const T* const* rows, const Members& members,
                                    const Columns& columns, std::int64_t ahead) {
        // With the usual number known, the loop is unrolled.
        if (members.count == kGroupKeys)
            add_rows(weights, rows, {members.first, members.step, kGroupKeys}, columns, ahead);
        else
            add_rows(weights, rows, members, columns, ahead);
    }

    template <bool kStream, typename T>
    FOURREAL_ALWAYS_INLINE void write(T* const* rows, const Members& members, std::int64_t first,
                                      const Columns& columns) const {
#pragma GCC unroll 8
        for (int r = 0; r < kGroupKeys; ++r) {
            if (first + r >= members.count) break;
            T* const to = rows[members.at(first + r)] + columns.first;
            for (int x = 0; x < kColumns; ++x) {
                if (x + 1 == kColumns && columns.tail > 0)
                    store_first(to + x * kWidth, tile.at[r][x], columns.tail);
                else if (kStream)
                    stream(to + x * kWidth, tile.at[r][x]);
                else
                    store(to + x * kWidth, tile.at[r][x]);
            }
        }
    }

private:
    template <typename T>
    FOURREAL_ALWAYS_INLINE void add_rows(const Weights& weights, const T* const* rows, const Members& members,
                                         const Columns& columns, std::int64_t ahead) {
        const float* weight = weights.at;
        for (std::int64_t k = 0; k < members.count; ++k, weight += weights.row_step) {
            const T* const row = rows[members.first + k * members.step] + columns.first;
            Vec x[kColumns];
            for (int i = 0; i + 1 < kColumns; ++i) x[i] = load(row + i * kWidth);
            const T* const end = row + (kColumns - 1) * kWidth;
            for (int i = 0; ahead != 0 && i < kColumns; ++i) fetch(row + ahead + i * kWidth);
            x[kColumns - 1] = columns.tail > 0 ? load_first(end, columns.tail) : load(end);
            for (int r = 0; r < kGroupKeys; ++r) {
                const Vec factor = broadcast(weight[r * weights.sum_step]);
                for (int i = 0; i < kColumns; ++i) tile.at[r][i] = fmadd(factor, x[i], tile.at[r][i]);
            }
        }
    }
};

// Sums for the members i, i + 1, ... over their whole family, weighted by their own scores.
template <int kGroups, int kColumns, typename T>
FOURREAL_ALWAYS_INLINE void add_family(Mixed<kColumns>& mixed, const Scores& scores, const T* const* rows,
                                       const Members& members, std::int64_t i, const Columns& columns,
                                       std::int64_t ahead) {
    for (int g = 0; g < kGroups; ++g)
        mixed.add(Weights{scores.of(g, members.at(i)), members.step * kGroupKeys, 1}, rows, members.group(g), columns,
                  ahead);
}

// Sums for the keys of group g over all queries of their family.
template <int kColumns, typename T>
FOURREAL_ALWAYS_INLINE void add_transposed(Mixed<kColumns>& mixed, const Scores& scores, const T* const* rows,
                                           const Members& members, int g, const Columns& columns) {
    mixed.add(Weights{scores.of(g, members.first), 1, members.step * kGroupKeys}, rows, members, columns, 0);
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

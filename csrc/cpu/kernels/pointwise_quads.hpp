// Products of the queries and keys of one position, with keys in the lanes of a vector: four lanes for each key, for four
// channels side by side. Keys come there by a transposition of quads, queries by broadcasts, each of which meets all keys of
// two vectors, a group. Sums over lanes are few.
#pragma once

#include <cstdint>

#include "kernels/pointwise_softmax.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

constexpr int kQuad = 4;
constexpr int kVectorKeys = kWidth / kQuad;
constexpr int kGroupKeys = 2 * kVectorKeys;

constexpr int groups_of(std::int64_t keys) { return static_cast<int>((keys + kGroupKeys - 1) / kGroupKeys); }

// Entries first, first + step, ... which all see each other. Numbers past the last one stand for it.
struct Members {
    std::int64_t first, step, count;

    FOURREAL_ALWAYS_INLINE std::int64_t at(std::int64_t i) const { return first + (i < count ? i : count - 1) * step; }
    // Keys of group g.
    FOURREAL_ALWAYS_INLINE Members group(int g) const {
        const std::int64_t left = count - g * kGroupKeys;
        return {first + g * kGroupKeys * step, step, left < kGroupKeys ? left : kGroupKeys};
    }
};

// A number for each entry and key of its family: with key i of group g, entry e has at[g * group_size + e * kGroupKeys + i].
// Two entries side by side share a vector.
struct Scores {
    float* at;
    std::int64_t group_size;

    static std::int64_t size_of_group(std::int64_t entries) { return (entries + kGroupKeys + 1) / 2 * kWidth; }

    FOURREAL_ALWAYS_INLINE float* of(int group, std::int64_t entry) const {
        return at + group * group_size + entry * kGroupKeys;
    }
    FOURREAL_ALWAYS_INLINE Scores from(int group) const { return {at + group * group_size, group_size}; }
};

constexpr std::int64_t packed_floats(std::int64_t channels, int groups) {
    return (channels + kWidth - 1) / kWidth * kGroupKeys * groups * kWidth;
}

// Asks for a line of the position that comes next. As each line is asked for beside the use of the same one of this position,
// a core never has more misses to wait for than it can. Into the second-level cache: the first holds few rows that lie whole
// pages apart.
template <typename T>
FOURREAL_ALWAYS_INLINE void fetch(const T* line) {
    __builtin_prefetch(line, 0, 2);
}

// Packed keys: for each four channels, two vectors of each group. A group that is not full repeats the last key. The rows of
// the next position lie `ahead` numbers further; 0 asks for none.
template <int kGroups, typename T>
FOURREAL_ALWAYS_INLINE void pack_keys(const T* const* rows, const Members& members, std::int64_t channels,
                                      std::int64_t ahead, float* packed) {
    for (int half = 0; half < 2 * kGroups; ++half) {
        const T* keys[kVectorKeys];
        for (int j = 0; j < kVectorKeys; ++j) keys[j] = rows[members.at(half * kVectorKeys + j)];
        float* to = packed + half * kWidth;
        for (std::int64_t c = 0; c < channels; c += kWidth) {
            Vec square[kVectorKeys];
#pragma GCC unroll 4
            for (int j = 0; j < kVectorKeys; ++j) square[j] = load_channels(keys[j], c, channels);
            for (int j = 0; ahead != 0 && j < kVectorKeys; ++j) fetch(keys[j] + ahead + c);
            transpose_quads(square);
#pragma GCC unroll 4
            for (int j = 0; j < kVectorKeys; ++j, to += 2 * kGroups * kWidth) store(to, square[j]);
        }
    }
}

// So many queries, and groups of keys, at a time that their sums stay in registers.
template <int kGroups>
constexpr int kQueryRows = kWidth == 16 ? (kGroups == 1 ? 8 : kGroups < 4 ? 4 : 2) : kGroups == 1 ? 4 : 2;
template <int kGroups>
constexpr int kGroupsTogether = kWidth < 16 && kGroups == 4 ? 2 : kGroups;

// Products of some queries with some groups of packed keys: two queries in each vector of `products`. Not inlined: addresses
// of rows and sums take all the registers there are.
template <int kGroups>
__attribute__((noinline)) void multiply_keys(const float* keys, const float* const* queries, std::int64_t channels,
                                             std::int64_t ahead, float* products) {
    constexpr int kRows = kQueryRows<kGroups>, kVectors = 2 * kGroupsTogether<kGroups>;
    const float* rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = queries[r];
    Vec sums[kRows][kVectors];
    // The first products are the first sums: some compilers would clear the array in memory.
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        const Vec query = broadcast_quad(rows[r]);
#pragma GCC unroll 8
        for (int x = 0; x < kVectors; ++x) sums[r][x] = query * load(keys + x * kWidth);
    }
    for (std::int64_t c = kQuad; c < channels;) {
        for (int r = 0; ahead != 0 && r < kRows; ++r) fetch(rows[r] + ahead + c);
        const std::int64_t end = channels < c + kWidth ? channels : c + kWidth;
        for (; c < end; c += kQuad) {
            keys += 2 * kGroups * kWidth;
            Vec key[kVectors];
            for (int x = 0; x < kVectors; ++x) key[x] = load(keys + x * kWidth);
            for (int r = 0; r < kRows; ++r) {
                const Vec query = broadcast_quad(rows[r] + c);
                for (int x = 0; x < kVectors; ++x) sums[r][x] = fmadd(query, key[x], sums[r][x]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; r += 2)
#pragma GCC unroll 4
        for (int x = 0; x < kVectors; x += 2) {
            const Vec first = add_pairs(sums[r][x], sums[r][x + 1]), second = add_pairs(sums[r + 1][x], sums[r + 1][x + 1]);
            store(products + (r * kGroups + x) / 2 * kWidth, add_pairs(first, second));
        }
}

// Products of the members as queries with the packed keys of the same members.
template <int kGroups>
FOURREAL_ALWAYS_INLINE void write_products(const float* packed, const float* const* queries, const Members& members,
                                           std::int64_t channels, std::int64_t ahead, const Scores& scores) {
    constexpr int kRows = kQueryRows<kGroups>;
    for (std::int64_t i = 0; i < members.count; i += kRows) {
        const float* rows[kRows];
        for (int r = 0; r < kRows; ++r) rows[r] = queries[members.at(i + r)];
        float products[kRows / 2 * kGroups * kWidth];
        for (int g = 0; g < kGroups; g += kGroupsTogether<kGroups>)
            multiply_keys<kGroups>(packed + 2 * g * kWidth, rows, channels, g == 0 ? ahead : 0, products + g * kWidth);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; r += 2) {
            if (i + r >= members.count) break;
            for (int g = 0; g < kGroups; ++g) {
                const Vec both = load(products + (r / 2 * kGroups + g) * kWidth);
                // The second of a last pair that is none lies past the end, or is written over by the next family.
                if (members.step == 1)
                    store(scores.of(g, members.at(i + r)), both);
                else
                    store_halves(scores.of(g, members.at(i + r)), scores.of(g, members.at(i + r + 1)), both);
            }
        }
    }
}

struct Maximum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return max(a, b); }
};
struct Sum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return a + b; }
};

// For each group, a vector with -infinity in the lanes that hold no key of their own, 0 in the others.
inline void hide_missing(std::int64_t keys, int groups, float* hidden) {
    for (int g = 0; g < groups; ++g)
        for (int lane = 0; lane < kWidth; ++lane)
            *hidden++ = g * kGroupKeys + lane % kGroupKeys < keys ? 0.0f : -__builtin_inff();
}

// a / b rounded to nearest but for rare cases, from about 1 / b: a single key has exactly the weight 1.
FOURREAL_ALWAYS_INLINE Vec quotient(Vec a, Vec b, Vec inverse) {
    const Vec near = a * inverse;
    return fmadd(fmadd(zero() - near, b, a), inverse, near);
}

// Two entries side by side: products become probabilities. `factor` takes them to scores in powers of two, to which `hidden` is
// added.
template <int kGroups>
struct PairSoftmax {
    Vec largest, sums;

    FOURREAL_ALWAYS_INLINE PairSoftmax(Vec (&products)[kGroups], Vec factor, const Vec (&hidden)[kGroups]) {
        largest = fmadd(products[0], factor, hidden[0]);
        for (int g = 1; g < kGroups; ++g) largest = max(largest, fmadd(products[g], factor, hidden[g]));
        largest = combine_halves(largest, Maximum());
        for (int g = 0; g < kGroups; ++g) {
            // In one rounding: large scores differ from the largest by less than their own error.
            const Vec score = fmadd(products[g], factor, hidden[g] - largest);
            products[g] = exp2(max(broadcast(kSmallestExponent), score));
            sums = g == 0 ? products[0] : sums + products[g];
        }
        sums = combine_halves(sums, Sum());
        const Vec inverse = reciprocal(sums);
        for (int g = 0; g < kGroups; ++g) products[g] = quotient(products[g], sums, inverse);
    }

    // Of both entries, if both are wanted.
    FOURREAL_ALWAYS_INLINE void write_log_sums(float* first, float* second) const {
        float lanes[kWidth];
        store(lanes, log_sum(largest, sums));
        *first = lanes[0];
        if (second) *second = lanes[kGroupKeys];
    }
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

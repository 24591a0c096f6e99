// Vectors of 4 floats by the compiler's own vector type, for any processor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fourreal/dtype.hpp"
#include "fourreal/instruction_set.hpp"

namespace fourreal::cpu::portable {

typedef float Vec __attribute__((vector_size(16)));
typedef std::int32_t Integers __attribute__((vector_size(16)));
constexpr int kWidth = 4;
// Registers of a tile of matrix products: rows x (columns / kWidth), leaving some for operands.
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;

FOURREAL_ALWAYS_INLINE Vec zero() { return Vec{0, 0, 0, 0}; }
FOURREAL_ALWAYS_INLINE Vec broadcast(float value) { return Vec{value, value, value, value}; }

FOURREAL_ALWAYS_INLINE Vec load(const float* from) {
    Vec x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}
FOURREAL_ALWAYS_INLINE void store(float* to, Vec x) { std::memcpy(to, &x, sizeof(x)); }
template <typename T>
FOURREAL_ALWAYS_INLINE Vec load(const T* from) {
    return Vec{fourreal::load(from[0]), fourreal::load(from[1]), fourreal::load(from[2]), fourreal::load(from[3])};
}
template <typename T>
FOURREAL_ALWAYS_INLINE void store(T* to, Vec x) {
    for (int lane = 0; lane < kWidth; ++lane) to[lane] = fourreal::store<T>(x[lane]);
}
template <typename T>
FOURREAL_ALWAYS_INLINE Vec load_first(const T* from, int count) {
    Vec x = zero();
    for (int lane = 0; lane < count; ++lane) x[lane] = fourreal::load(from[lane]);
    return x;
}
template <typename T>
FOURREAL_ALWAYS_INLINE void store_first(T* to, Vec x, int count) {
    for (int lane = 0; lane < count; ++lane) to[lane] = fourreal::store<T>(x[lane]);
}

// Where no store past the caches is known, an ordinary one.
template <typename T>
FOURREAL_ALWAYS_INLINE void stream(T* to, Vec x) {
    store(to, x);
}
FOURREAL_ALWAYS_INLINE void stream_fence() {}

FOURREAL_ALWAYS_INLINE Vec fmadd(Vec a, Vec b, Vec c) { return a * b + c; }
FOURREAL_ALWAYS_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
FOURREAL_ALWAYS_INLINE Vec sqrt(Vec a) {
    return Vec{std::sqrt(a[0]), std::sqrt(a[1]), std::sqrt(a[2]), std::sqrt(a[3])};
}
FOURREAL_ALWAYS_INLINE Vec reciprocal(Vec x) { return 1.0f / x; }
FOURREAL_ALWAYS_INLINE bool any_greater(Vec a, Vec b) {
    const Integers greater = a > b;
    return (greater[0] | greater[1] | greater[2] | greater[3]) != 0;
}
// `a` in the first `count` lanes, `b` in the others.
FOURREAL_ALWAYS_INLINE Vec select_first(int count, Vec a, Vec b) {
    const Integers limit = {count, count, count, count};
    const Integers lanes = {0, 1, 2, 3};
    return lanes < limit ? a : b;
}

// Adding and subtracting 1.5 * 2^23 leaves the nearest integer of a number below 2^22.
FOURREAL_ALWAYS_INLINE Vec round_nearest(Vec x) {
    const Vec large = broadcast(12582912.0f);
    const Vec limit = broadcast(4194304.0f);
    const Vec rounded = (x + large) - large;
    const Vec magnitude = x < zero() ? -x : x;
    return magnitude < limit ? rounded : x;
}
FOURREAL_ALWAYS_INLINE Vec fraction_of(Vec x, Vec& integer) {
    integer = round_nearest(x);
    return x - integer;
}
// value * 2^integer for integers from -126 on; below, the result is 0 (and NaN stays NaN), above 127 it is value * 2^127.
FOURREAL_ALWAYS_INLINE Vec scale_by_power_of_two(Vec value, Vec integer) {
    const Vec smallest = broadcast(-127.0f), largest = broadcast(127.0f);
    const Vec above = integer > smallest ? integer : smallest;
    const Vec clamped = above < largest ? above : largest;
    const Integers exponent = (__builtin_convertvector(clamped, Integers) + 127) << 23;
    Vec power;
    std::memcpy(&power, &exponent, sizeof(power));
    return value * power;
}

FOURREAL_ALWAYS_INLINE float reduce_add(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// (x1, x0, x3, x2): the partner of each lane in its pair.
FOURREAL_ALWAYS_INLINE Vec swap_pairs(Vec x) { return Vec{x[1], x[0], x[3], x[2]}; }
// (a0, b0, a1, b1, ...) from the first half of the lanes of a and b, and from the second half.
FOURREAL_ALWAYS_INLINE Vec interleave_low(Vec a, Vec b) { return Vec{a[0], b[0], a[1], b[1]}; }
FOURREAL_ALWAYS_INLINE Vec interleave_high(Vec a, Vec b) { return Vec{a[2], b[2], a[3], b[3]}; }

// Combines the lanes of each half by op, into all lanes of that half.
template <typename Op>
FOURREAL_ALWAYS_INLINE Vec combine_halves(Vec x, Op op) {
    return op(x, swap_pairs(x));
}

FOURREAL_ALWAYS_INLINE void store_halves(float* low, float* high, Vec x) {
    for (int lane = 0; lane < 2; ++lane) low[lane] = x[lane], high[lane] = x[2 + lane];
}

// (from[0], from[1], from[2], from[3])
FOURREAL_ALWAYS_INLINE Vec broadcast_quad(const float* from) { return load(from); }
// Sums of the pairs of lanes of a in the first half, of b in the second.
FOURREAL_ALWAYS_INLINE Vec add_pairs(Vec a, Vec b) { return Vec{a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3]}; }
// Rows of four lanes each become columns: here each row is one.
FOURREAL_ALWAYS_INLINE void transpose_quads(Vec (&)[kWidth / 4]) {}

FOURREAL_ALWAYS_INLINE void transpose(Vec (&rows)[kWidth]) {
    const Vec a = rows[0], b = rows[1], c = rows[2], d = rows[3];
    for (int lane = 0; lane < kWidth; ++lane) rows[lane] = Vec{a[lane], b[lane], c[lane], d[lane]};
}

// The largest integer power with 2^power <= x, for normal x > 0.
FOURREAL_ALWAYS_INLINE Vec exponent_of(Vec x) {
    Integers bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return __builtin_convertvector((bits >> 23) - 127, Vec);
}

}  // namespace fourreal::cpu::portable

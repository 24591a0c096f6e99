// Vectors of 8 floats for processors with AVX2, FMA and F16C. Compiled only with those instructions enabled.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "fourreal/dtype.hpp"
#include "fourreal/instruction_set.hpp"

namespace fourreal::cpu::avx2 {

using Vec = __m256;
constexpr int kWidth = 8;
// Registers of a tile of matrix products: rows x (columns / kWidth), leaving some for operands.
constexpr int kTileRows = 4;
constexpr int kTileVectors = 3;

FOURREAL_ALWAYS_INLINE Vec zero() { return _mm256_setzero_ps(); }
FOURREAL_ALWAYS_INLINE Vec broadcast(float value) { return _mm256_set1_ps(value); }

FOURREAL_ALWAYS_INLINE __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

FOURREAL_ALWAYS_INLINE Vec load(const float* from) { return _mm256_loadu_ps(from); }
FOURREAL_ALWAYS_INLINE void store(float* to, Vec x) { _mm256_storeu_ps(to, x); }
FOURREAL_ALWAYS_INLINE Vec load_first(const float* from, int count) {
    return _mm256_maskload_ps(from, first_lanes(count));
}
FOURREAL_ALWAYS_INLINE void store_first(float* to, Vec x, int count) {
    _mm256_maskstore_ps(to, first_lanes(count), x);
}

FOURREAL_ALWAYS_INLINE Vec widen(__m128i half, BFloat16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
FOURREAL_ALWAYS_INLINE Vec widen(__m128i half, Float16) { return _mm256_cvtph_ps(half); }

FOURREAL_ALWAYS_INLINE __m128i narrow(Vec x, BFloat16) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i words = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
FOURREAL_ALWAYS_INLINE __m128i narrow(Vec x, Float16) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

template <typename T>
FOURREAL_ALWAYS_INLINE Vec load(const T* from) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), T{});
}
template <typename T>
FOURREAL_ALWAYS_INLINE void store(T* to, Vec x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow(x, T{}));
}
template <typename T>
FOURREAL_ALWAYS_INLINE Vec load_first(const T* from, int count) {
    alignas(16) T lanes[kWidth] = {};
    std::memcpy(lanes, from, sizeof(T) * static_cast<std::size_t>(count));
    return load(lanes);
}
template <typename T>
FOURREAL_ALWAYS_INLINE void store_first(T* to, Vec x, int count) {
    alignas(16) T lanes[kWidth];
    store(lanes, x);
    std::memcpy(to, lanes, sizeof(T) * static_cast<std::size_t>(count));
}

// Past the caches; `to` is aligned to the vector. A stream_fence() must follow the last one.
FOURREAL_ALWAYS_INLINE void stream(float* to, Vec x) { _mm256_stream_ps(to, x); }
template <typename T>
FOURREAL_ALWAYS_INLINE void stream(T* to, Vec x) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), narrow(x, T{}));
}
FOURREAL_ALWAYS_INLINE void stream_fence() { _mm_sfence(); }

FOURREAL_ALWAYS_INLINE Vec fmadd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
FOURREAL_ALWAYS_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
FOURREAL_ALWAYS_INLINE Vec sqrt(Vec a) { return _mm256_sqrt_ps(a); }
FOURREAL_ALWAYS_INLINE Vec reciprocal(Vec x) { return _mm256_div_ps(broadcast(1.0f), x); }
FOURREAL_ALWAYS_INLINE bool any_greater(Vec a, Vec b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
// `a` in the first `count` lanes, `b` in the others.
FOURREAL_ALWAYS_INLINE Vec select_first(int count, Vec a, Vec b) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(first_lanes(count)));
}

FOURREAL_ALWAYS_INLINE Vec round_nearest(Vec x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FOURREAL_ALWAYS_INLINE Vec fraction_of(Vec x, Vec& integer) {
    integer = round_nearest(x);
    return x - integer;
}
// value * 2^integer for integers from -126 on; below, the result is 0 (and NaN stays NaN), above 127 it is value * 2^127.
FOURREAL_ALWAYS_INLINE Vec scale_by_power_of_two(Vec value, Vec integer) {
    const Vec smallest = _mm256_set1_ps(-127.0f), largest = _mm256_set1_ps(127.0f);
    const Vec clamped = _mm256_min_ps(_mm256_max_ps(integer, smallest), largest);
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(clamped), _mm256_set1_epi32(127)), 23);
    return value * _mm256_castsi256_ps(exponent);
}

FOURREAL_ALWAYS_INLINE float reduce_add(Vec x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

// (x1, x0, x3, x2, ...): the partner of each lane in its pair.
FOURREAL_ALWAYS_INLINE Vec swap_pairs(Vec x) { return _mm256_permute_ps(x, 0xb1); }
// (a0, b0, a1, b1, ...) from the first half of the lanes of a and b, and from the second half.
FOURREAL_ALWAYS_INLINE Vec interleave_low(Vec a, Vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
FOURREAL_ALWAYS_INLINE Vec interleave_high(Vec a, Vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}

// Combines the lanes of each half by op, into all lanes of that half.
template <typename Op>
FOURREAL_ALWAYS_INLINE Vec combine_halves(Vec x, Op op) {
    x = op(x, _mm256_permute_ps(x, 0xb1));
    return op(x, _mm256_permute_ps(x, 0x4e));
}

FOURREAL_ALWAYS_INLINE void store_halves(float* low, float* high, Vec x) {
    _mm_storeu_ps(low, _mm256_castps256_ps128(x));
    _mm_storeu_ps(high, _mm256_extractf128_ps(x, 1));
}

// (from[0], from[1], from[2], from[3], from[0], ...)
FOURREAL_ALWAYS_INLINE Vec broadcast_quad(const float* from) {
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from));
}
// Sums of the pairs of lanes of a in the first half, of b in the second.
FOURREAL_ALWAYS_INLINE Vec add_pairs(Vec a, Vec b) {
    const __m256d sums = _mm256_castps_pd(_mm256_hadd_ps(a, b));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(sums, 0xd8));
}
// Rows of four lanes each become columns.
FOURREAL_ALWAYS_INLINE void transpose_quads(Vec (&rows)[kWidth / 4]) {
    const Vec a = rows[0], b = rows[1];
    rows[0] = _mm256_permute2f128_ps(a, b, 0x20);
    rows[1] = _mm256_permute2f128_ps(a, b, 0x31);
}

// Unrolled, so that the rows stay in registers.
FOURREAL_ALWAYS_INLINE void transpose(Vec (&rows)[kWidth]) {
    Vec t[kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 8; i += 4) {
        rows[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        rows[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        rows[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        rows[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i) rows[i] = t[i];
}

// The largest integer power with 2^power <= x, for normal x > 0.
FOURREAL_ALWAYS_INLINE Vec exponent_of(Vec x) {
    const __m256i biased = _mm256_srli_epi32(_mm256_castps_si256(x), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)));
}

}  // namespace fourreal::cpu::avx2

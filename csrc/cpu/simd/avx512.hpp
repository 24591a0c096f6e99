// Vectors of 16 floats for processors with AVX-512 F, BW, DQ and VL. Compiled only with those instructions enabled.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "fourreal/dtype.hpp"
#include "fourreal/instruction_set.hpp"

namespace fourreal::cpu::avx512 {

using Vec = __m512;
constexpr int kWidth = 16;
// Registers of a tile of matrix products: rows x (columns / kWidth), leaving some for operands.
constexpr int kTileRows = 8;
constexpr int kTileVectors = 3;

FOURREAL_ALWAYS_INLINE Vec zero() { return _mm512_setzero_ps(); }
FOURREAL_ALWAYS_INLINE Vec broadcast(float value) { return _mm512_set1_ps(value); }

FOURREAL_ALWAYS_INLINE __mmask16 first_lanes(int count) {
    return static_cast<__mmask16>((1u << count) - 1u);
}

FOURREAL_ALWAYS_INLINE Vec load(const float* from) { return _mm512_loadu_ps(from); }
FOURREAL_ALWAYS_INLINE void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
FOURREAL_ALWAYS_INLINE Vec load_first(const float* from, int count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), from);
}
FOURREAL_ALWAYS_INLINE void store_first(float* to, Vec x, int count) {
    _mm512_mask_storeu_ps(to, first_lanes(count), x);
}

FOURREAL_ALWAYS_INLINE Vec widen(__m256i half, BFloat16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
FOURREAL_ALWAYS_INLINE Vec widen(__m256i half, Float16) { return _mm512_cvtph_ps(half); }

FOURREAL_ALWAYS_INLINE __m256i narrow(Vec x, BFloat16) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0)));
}
FOURREAL_ALWAYS_INLINE __m256i narrow(Vec x, Float16) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

template <typename T>
FOURREAL_ALWAYS_INLINE Vec load(const T* from) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), T{});
}
template <typename T>
FOURREAL_ALWAYS_INLINE void store(T* to, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow(x, T{}));
}
template <typename T>
FOURREAL_ALWAYS_INLINE Vec load_first(const T* from, int count) {
    return widen(_mm256_maskz_loadu_epi16(first_lanes(count), from), T{});
}
template <typename T>
FOURREAL_ALWAYS_INLINE void store_first(T* to, Vec x, int count) {
    _mm256_mask_storeu_epi16(to, first_lanes(count), narrow(x, T{}));
}

// Past the caches; `to` is aligned to the vector. A stream_fence() must follow the last one.
FOURREAL_ALWAYS_INLINE void stream(float* to, Vec x) { _mm512_stream_ps(to, x); }
template <typename T>
FOURREAL_ALWAYS_INLINE void stream(T* to, Vec x) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), narrow(x, T{}));
}
FOURREAL_ALWAYS_INLINE void stream_fence() { _mm_sfence(); }

FOURREAL_ALWAYS_INLINE Vec fmadd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
FOURREAL_ALWAYS_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
FOURREAL_ALWAYS_INLINE Vec sqrt(Vec a) { return _mm512_sqrt_ps(a); }
// 1 / x for normal x, within a unit in the last place: a division takes as long as 16 multiplications.
FOURREAL_ALWAYS_INLINE Vec reciprocal(Vec x) {
    const Vec estimate = _mm512_rcp14_ps(x);
    return _mm512_fmadd_ps(estimate, _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0f)), estimate);
}
FOURREAL_ALWAYS_INLINE bool any_greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
// `a` in the first `count` lanes, `b` in the others.
FOURREAL_ALWAYS_INLINE Vec select_first(int count, Vec a, Vec b) {
    return _mm512_mask_mov_ps(b, first_lanes(count), a);
}

// value * 2^integer; what is not an integer is rounded down to one.
FOURREAL_ALWAYS_INLINE Vec scale_by_power_of_two(Vec value, Vec integer) { return _mm512_scalef_ps(value, integer); }

// 2^x, relative error below 1.2e-7; 0 for x below -150, and NaN stays NaN. By a table of sixteenths, which one instruction
// looks up, and 1 + c1 r + c2 r^2 + c3 r^3 for the rest, at most 1/32: two multiplications less than by a polynomial alone.
FOURREAL_ALWAYS_INLINE Vec exp2(Vec x) {
    const Vec table = _mm512_setr_ps(1.0f, 1.0442737f, 1.0905077f, 1.1387886f, 1.1892071f, 1.2418578f, 1.2968396f, 1.3542556f,
                                     1.4142135f, 1.4768262f, 1.5422108f, 1.6104903f, 1.6817929f, 1.7562522f, 1.8340081f,
                                     1.9152066f);
    constexpr float kSixteenths = 3 << 18;  // the last four bits of kSixteenths + n are those of n behind its point
    const Vec rest = _mm512_reduce_ps(x, (4 << 4) | _MM_FROUND_TO_NEAREST_INT);
    const Vec sixteenths = x - rest;
    const Vec power = _mm512_permutexvar_ps(_mm512_castps_si512(sixteenths + broadcast(kSixteenths)), table);
    const Vec slope = fmadd(fmadd(broadcast(5.5502135e-2f), rest, broadcast(2.4023429e-1f)), rest, broadcast(6.931472e-1f));
    return scale_by_power_of_two(fmadd(power * rest, slope, power), sixteenths);
}

FOURREAL_ALWAYS_INLINE float reduce_add(Vec x) { return _mm512_reduce_add_ps(x); }

// (x1, x0, x3, x2, ...): the partner of each lane in its pair.
FOURREAL_ALWAYS_INLINE Vec swap_pairs(Vec x) { return _mm512_permute_ps(x, 0xb1); }
// (a0, b0, a1, b1, ...) from the first half of the lanes of a and b, and from the second half.
FOURREAL_ALWAYS_INLINE Vec interleave_low(Vec a, Vec b) {
    const __m512i lanes = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, lanes, b);
}
FOURREAL_ALWAYS_INLINE Vec interleave_high(Vec a, Vec b) {
    const __m512i lanes = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a, lanes, b);
}

FOURREAL_ALWAYS_INLINE Vec low_pairs(Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
FOURREAL_ALWAYS_INLINE Vec high_pairs(Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

// Combines the lanes of each half by op, into all lanes of that half.
template <typename Op>
FOURREAL_ALWAYS_INLINE Vec combine_halves(Vec x, Op op) {
    x = op(x, _mm512_permute_ps(x, 0xb1));
    x = op(x, _mm512_permute_ps(x, 0x4e));
    return op(x, _mm512_shuffle_f32x4(x, x, 0xb1));
}
FOURREAL_ALWAYS_INLINE void store_halves(float* low, float* high, Vec x) {
    _mm256_storeu_ps(low, _mm512_castps512_ps256(x));
    _mm256_storeu_ps(high, _mm512_extractf32x8_ps(x, 1));
}

// (from[0], from[1], from[2], from[3], from[0], ...)
FOURREAL_ALWAYS_INLINE Vec broadcast_quad(const float* from) { return _mm512_broadcast_f32x4(_mm_loadu_ps(from)); }
// Sums of the pairs of lanes of a in the first half, of b in the second.
FOURREAL_ALWAYS_INLINE Vec add_pairs(Vec a, Vec b) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, even, b) + _mm512_permutex2var_ps(a, odd, b);
}
// Rows of four lanes each become columns.
FOURREAL_ALWAYS_INLINE void transpose_quads(Vec (&rows)[kWidth / 4]) {
    const Vec a = _mm512_shuffle_f32x4(rows[0], rows[1], 0x44), b = _mm512_shuffle_f32x4(rows[2], rows[3], 0x44);
    const Vec c = _mm512_shuffle_f32x4(rows[0], rows[1], 0xee), d = _mm512_shuffle_f32x4(rows[2], rows[3], 0xee);
    rows[0] = _mm512_shuffle_f32x4(a, b, 0x88);
    rows[1] = _mm512_shuffle_f32x4(a, b, 0xdd);
    rows[2] = _mm512_shuffle_f32x4(c, d, 0x88);
    rows[3] = _mm512_shuffle_f32x4(c, d, 0xdd);
}

// Unrolled, so that the rows stay in registers.
FOURREAL_ALWAYS_INLINE void transpose(Vec (&rows)[kWidth]) {
    Vec t[kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        rows[i] = low_pairs(t[i], t[i + 2]);
        rows[i + 1] = high_pairs(t[i], t[i + 2]);
        rows[i + 2] = low_pairs(t[i + 1], t[i + 3]);
        rows[i + 3] = high_pairs(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_f32x4(rows[i], rows[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(rows[i], rows[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(rows[i + 8], rows[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(rows[i + 8], rows[i + 12], 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
        rows[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        rows[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        rows[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        rows[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// The largest integer power with 2^power <= x, for normal x > 0.
FOURREAL_ALWAYS_INLINE Vec exponent_of(Vec x) {
    return _mm512_getexp_ps(x);
}

}  // namespace fourreal::cpu::avx512

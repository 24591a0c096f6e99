// The vectors of the instruction set that this translation unit is compiled for.
//
// Kernel sources are compiled once per instruction set, with FOURREAL_SIMD set to avx512, avx2 or portable, and put all
// they define into namespace fourreal::cpu::FOURREAL_SIMD: the linker must never merge functions of two of them.
#pragma once

#if !defined(FOURREAL_SIMD)
#error "FOURREAL_SIMD must name the instruction set this source is compiled for: see CMakeLists.txt"
#endif

#define FOURREAL_SIMD_avx512 3
#define FOURREAL_SIMD_avx2 2
#define FOURREAL_SIMD_portable 1
#define FOURREAL_SIMD_PASTE(name) FOURREAL_SIMD_##name
#define FOURREAL_SIMD_LEVEL(name) FOURREAL_SIMD_PASTE(name)

#if FOURREAL_SIMD_LEVEL(FOURREAL_SIMD) == 3
#include "simd/avx512.hpp"
#elif FOURREAL_SIMD_LEVEL(FOURREAL_SIMD) == 2
#include "simd/avx2.hpp"
#else
#include "simd/portable.hpp"
#endif

namespace fourreal::cpu::FOURREAL_SIMD {

constexpr std::int64_t kCacheLine = 64;
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

// A vector of a row of `channels` numbers from `channel` on, zero past its end.
template <typename T>
FOURREAL_ALWAYS_INLINE Vec load_channels(const T* row, std::int64_t channel, std::int64_t channels) {
    const std::int64_t left = channels - channel;
    return left >= kWidth ? load(row + channel) : load_first(row + channel, static_cast<int>(left));
}

#if FOURREAL_SIMD_LEVEL(FOURREAL_SIMD) < 3  // AVX-512 has a better one
// 2^x, relative error below 2e-7 for |x| < 126; 0 for x below -126, and NaN stays NaN.
FOURREAL_ALWAYS_INLINE Vec exp2(Vec x) {
    // The polynomial 1 + c1 f + ... + c5 f^5 with the least relative error, 9.2e-8, to 2^f on [-0.5, 0.5].
    constexpr float kCoefficients[] = {1.32647273e-3f, 9.67151299e-3f, 5.55073358e-2f, 2.40222424e-1f, 6.93147004e-1f, 1.0f};
    Vec integer;
    const Vec fraction = fraction_of(x, integer);
    Vec power = broadcast(kCoefficients[0]);
    for (int i = 1; i < 6; ++i) power = fmadd(power, fraction, broadcast(kCoefficients[i]));
    return scale_by_power_of_two(power, integer);
}
#endif

// ln x for normal x > 0, error below 1e-7; NaN stays NaN.
FOURREAL_ALWAYS_INLINE Vec natural_log(Vec x) {
    // Minimax of (ln(1 + f) - f + f^2/2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1], from Cephes' logf.
    constexpr float kCoefficients[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                                       -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                                       2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    constexpr float kSqrt2 = 1.41421356f;
    // x * sqrt(2)'s exponent rounds that of x to the nearest: the rest is in [sqrt(1/2), sqrt(2)].
    const Vec exponent = exponent_of(x * broadcast(kSqrt2));
    const Vec f = scale_by_power_of_two(x, zero() - exponent) - broadcast(1.0f);
    Vec p = broadcast(kCoefficients[0]);
    for (int i = 1; i < 9; ++i) p = fmadd(p, f, broadcast(kCoefficients[i]));
    const Vec square = f * f;
    const Vec tail = fmadd(p * f, square, broadcast(-0.5f) * square);
    return fmadd(exponent, broadcast(kLn2), f + tail);
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

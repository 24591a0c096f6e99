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

// A vector of a row of `channels` numbers from `channel` on, zero past its end.
template <typename T>
FOURREAL_ALWAYS_INLINE Vec load_channels(const T* row, std::int64_t channel, std::int64_t channels) {
    const std::int64_t left = channels - channel;
    return left >= kWidth ? load(row + channel) : load_first(row + channel, static_cast<int>(left));
}

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

}  // namespace fourreal::cpu::FOURREAL_SIMD

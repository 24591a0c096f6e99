// Packs of elements to and from floats, two elements of 16 bits at a time: one register holds both, and nvcc keeps it
// so only if they are never taken apart as 16-bit values.
#pragma once

#include <cstdint>
#include <cstring>

#include "numbers.cuh"
#include "vector_access.cuh"

namespace fourreal::cuda {

__device__ inline float2 pair_to_floats(std::uint32_t word, __nv_bfloat16) {
    const std::uint32_t bits[2] = {word << 16, word & 0xffff0000u};
    float2 floats;
    memcpy(&floats, bits, sizeof(floats));
    return floats;
}

__device__ inline float2 pair_to_floats(std::uint32_t word, __half) {
    __half2 pair;
    memcpy(&pair, &word, sizeof(pair));
    return __half22float2(pair);
}

__device__ inline std::uint32_t floats_to_pair(float low, float high, __nv_bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    std::uint32_t word;
    memcpy(&word, &pair, sizeof(word));
    return word;
}

__device__ inline std::uint32_t floats_to_pair(float low, float high, __half) {
    const __half2 pair = __floats2half2_rn(low, high);
    std::uint32_t word;
    memcpy(&word, &pair, sizeof(word));
    return word;
}

template <typename T, int kWidth>
__device__ void to_floats(const Pack<T, kWidth>& pack, float (&floats)[kWidth]) {
    if constexpr (sizeof(T) == 2 && kWidth > 1) {
        std::uint32_t words[kWidth / 2];
        memcpy(words, &pack, sizeof(words));
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) {
            const float2 pair = pair_to_floats(words[i], T{});
            floats[2 * i] = pair.x;
            floats[2 * i + 1] = pair.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) floats[i] = to_float(pack.item[i]);
    }
}

template <typename T, int kWidth>
__device__ Pack<T, kWidth> from_floats(const float (&floats)[kWidth]) {
    Pack<T, kWidth> pack;
    if constexpr (sizeof(T) == 2 && kWidth > 1) {
        std::uint32_t words[kWidth / 2];
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) words[i] = floats_to_pair(floats[2 * i], floats[2 * i + 1], T{});
        memcpy(&pack, words, sizeof(pack));
    } else {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) pack.item[i] = from_float<T>(floats[i]);
    }
    return pack;
}

}  // namespace fourreal::cuda

#include "kernels/ceilings.hpp"

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

double fma_loop(std::int64_t iterations) {
    constexpr int kChains = 10;  // latency times units, within 16 registers
    Vec chain[kChains];
    for (int i = 0; i < kChains; ++i) chain[i] = broadcast(static_cast<float>(i));
    const Vec half = broadcast(0.5f), one = broadcast(1.0f);
    for (std::int64_t n = 0; n < iterations; ++n)
        for (int i = 0; i < kChains; ++i) chain[i] = fmadd(chain[i], half, one);
    Vec sum = zero();
    for (int i = 0; i < kChains; ++i) sum = sum + chain[i];
    volatile float kept = reduce_add(sum);
    static_cast<void>(kept);
    return 2.0 * kWidth * kChains * static_cast<double>(iterations);
}

void copy_loop(const float* from, float* to, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) stream(to + i, load(from + i));
    stream_fence();
    for (; i < count; ++i) to[i] = from[i];
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

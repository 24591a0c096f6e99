#include "fourreal/ceilings.hpp"

#include <algorithm>
#include <chrono>

#include "kernels/ceilings.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::int64_t kIterations = 20000;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

double measure_fma_gflops(int milliseconds) {
    const auto loop = FOURREAL_KERNEL_FOR(best_instruction_set(), fma_loop);
    double operations = 0;
    const Clock::time_point start = Clock::now();
#pragma omp parallel reduction(+ : operations)
    while (seconds_since(start) < 1e-3 * milliseconds) operations += loop(kIterations);
    return operations / seconds_since(start) * 1e-9;
}

double measure_copy_gbs(int megabytes, int repeats) {
    constexpr std::int64_t kChunk = 65536;
    const std::int64_t chunks = std::max<std::int64_t>(1, static_cast<std::int64_t>(megabytes) * 1000000 / 4 / kChunk);
    const Scratch<float> from = make_scratch<float>(chunks * kChunk), to = make_scratch<float>(chunks * kChunk);
    if (!from || !to) return 0;
    std::fill_n(from.get(), chunks * kChunk, 1.0f);
    std::fill_n(to.get(), chunks * kChunk, 0.0f);
    const auto copy = FOURREAL_KERNEL_FOR(best_instruction_set(), copy_loop);
    double best = 0;
    for (int repeat = 0; repeat < repeats; ++repeat) {
        const Clock::time_point start = Clock::now();
#pragma omp parallel for schedule(static)
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
            copy(from.get() + chunk * kChunk, to.get() + chunk * kChunk, kChunk);
        best = std::max(best, 2.0 * sizeof(float) * static_cast<double>(chunks * kChunk) / seconds_since(start) * 1e-9);
    }
    return best;
}

}  // namespace fourreal::cpu

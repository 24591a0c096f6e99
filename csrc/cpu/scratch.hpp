// Scratch memory of a call, and the threads that share it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace fourreal::cpu {

inline int thread_limit() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

inline int thread_index() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

constexpr std::int64_t kScratchAlignment = 64;

// Rounds a number of `T` up to whole cache lines, so that parts of one allocation stay aligned and threads apart.
template <typename T>
constexpr std::int64_t aligned_count(std::int64_t count) {
    constexpr std::int64_t kLine = kScratchAlignment / static_cast<std::int64_t>(sizeof(T));
    return (count + kLine - 1) / kLine * kLine;
}

struct FreeScratch {
    void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Scratch = std::unique_ptr<T[], FreeScratch>;

// Uninitialised; null if there is not enough memory.
template <typename T>
Scratch<T> make_scratch(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(aligned_count<T>(count > 0 ? count : 1)) * sizeof(T);
    return Scratch<T>(static_cast<T*>(std::aligned_alloc(kScratchAlignment, bytes)));
}

}  // namespace fourreal::cpu

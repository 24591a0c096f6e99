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
    void* memory = nullptr;

    void operator()(const void*) const { std::free(memory); }
};

template <typename T>
using Scratch = std::unique_ptr<T[], FreeScratch>;

// Uninitialised; null if there is not enough memory. By malloc: what std::aligned_alloc of glibc took, and gave back, is too
// small for the next request of the same size.
template <typename T>
Scratch<T> make_scratch(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count > 0 ? count : 1) * sizeof(T);
    std::size_t space = bytes + kScratchAlignment;
    void* const memory = std::malloc(space);
    void* first = memory;
    if (memory) std::align(kScratchAlignment, bytes, first, space);
    return Scratch<T>(static_cast<T*>(first), FreeScratch{memory});
}

}  // namespace fourreal::cpu

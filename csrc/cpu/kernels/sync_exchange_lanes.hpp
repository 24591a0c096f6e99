// The vectors of simd.hpp for every element type, doubles included, and whole and partial access by one name.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/sync_exchange.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

constexpr int kDoubles = kWidth / 2;
typedef double Doubles __attribute__((vector_size(sizeof(double) * kDoubles)));

FOURREAL_ALWAYS_INLINE Doubles load(const double* from) {
    Doubles x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}
FOURREAL_ALWAYS_INLINE void store(double* to, Doubles x) { std::memcpy(to, &x, sizeof(x)); }
FOURREAL_ALWAYS_INLINE Doubles load_first(const double* from, int count) {
    Doubles x = {};
    for (int lane = 0; lane < count; ++lane) x[lane] = from[lane];
    return x;
}
FOURREAL_ALWAYS_INLINE void store_first(double* to, Doubles x, int count) {
    for (int lane = 0; lane < count; ++lane) to[lane] = x[lane];
}
FOURREAL_ALWAYS_INLINE Doubles select_first(int count, Doubles a, Doubles b) {
    for (int lane = 0; lane < count; ++lane) b[lane] = a[lane];
    return b;
}
FOURREAL_ALWAYS_INLINE double reduce_add(Doubles x) {
    double sum = 0;
    for (int lane = 0; lane < kDoubles; ++lane) sum += x[lane];
    return sum;
}
FOURREAL_ALWAYS_INLINE Doubles fmadd(Doubles a, Doubles b, Doubles c) { return a * b + c; }

// The accumulation type of an element type, its vector, and a vector of equal lanes.
template <typename T>
struct Lanes {
    using Scalar = float;
    using Wide = Vec;
    static constexpr int kCount = kWidth;
    static FOURREAL_ALWAYS_INLINE Vec all(float value) { return broadcast(value); }
    static FOURREAL_ALWAYS_INLINE float root(float value) { return std::sqrt(value); }
};
template <>
struct Lanes<double> {
    using Scalar = double;
    using Wide = Doubles;
    static constexpr int kCount = kDoubles;
    static FOURREAL_ALWAYS_INLINE Doubles all(double value) {
        Doubles x;
        for (int lane = 0; lane < kDoubles; ++lane) x[lane] = value;
        return x;
    }
    static FOURREAL_ALWAYS_INLINE double root(double value) { return std::sqrt(value); }
};

struct Whole {
    template <typename P>
    FOURREAL_ALWAYS_INLINE auto get(const P* from) const {
        return load(from);
    }
    template <typename P, typename W>
    FOURREAL_ALWAYS_INLINE void put(P* to, W x) const {
        store(to, x);
    }
    template <typename W>
    FOURREAL_ALWAYS_INLINE W keep(W x) const {
        return x;
    }
};

// The first `count` lanes; the others read as 0 and are not written.
struct First {
    int count;
    template <typename P>
    FOURREAL_ALWAYS_INLINE auto get(const P* from) const {
        return load_first(from, count);
    }
    template <typename P, typename W>
    FOURREAL_ALWAYS_INLINE void put(P* to, W x) const {
        store_first(to, x, count);
    }
    template <typename W>
    FOURREAL_ALWAYS_INLINE W keep(W x) const {
        return select_first(count, x, W{});
    }
};

// step(access, channel) for every vector of a row, the last one perhaps partial. It runs on a copy of `given`, which no store
// can alias: its members stay in registers.
template <int kCount, typename Step>
FOURREAL_ALWAYS_INLINE void for_each_vector(std::int64_t channels, Step& given) {
    Step step = given;
    std::int64_t c = 0;
    for (; c + kCount <= channels; c += kCount) step(Whole{}, c);
    if (c < channels) step(First{static_cast<int>(channels - c)}, c);
    given = step;
}

template <typename T>
FOURREAL_ALWAYS_INLINE T* row_of(const RowPointer& pointer, std::int64_t row) {
    return static_cast<T*>(pointer.data) + row * pointer.stride;
}

FOURREAL_ALWAYS_INLINE void prefetch(const void* line) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(line, 0, 3);
#else
    static_cast<void>(line);
#endif
}

// How far ahead of a row the memory is asked for what comes. The processor's own prefetchers stop at each page of 4 KB, which
// a core passes every microsecond: asking this far ahead takes a third off a pass over data in the last cache, a tenth
// off one over main memory.
constexpr std::int64_t kPrefetchBytes = 4096;

// Distance in rows, at least 1.
template <typename T>
FOURREAL_ALWAYS_INLINE std::int64_t prefetch_rows(std::int64_t channels) {
    const std::int64_t rows = kPrefetchBytes / (channels * static_cast<std::int64_t>(sizeof(T)));
    return rows < 1 ? 1 : rows;
}

// Calls Kernel<element type>::run(run).
template <template <typename> class Kernel, typename Run>
void for_dtype(const Run& run) {
    switch (run.dtype) {
        case DType::kFloat32: return Kernel<float>::run(run);
        case DType::kFloat64: return Kernel<double>::run(run);
        case DType::kFloat16: return Kernel<Float16>::run(run);
        case DType::kBFloat16: return Kernel<BFloat16>::run(run);
    }
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

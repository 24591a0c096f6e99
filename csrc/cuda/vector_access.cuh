// Packs of elements in registers, moved to and from global memory by one 16-byte access, or element by element.
#pragma once

#include <cstring>

#include <cuda_runtime.h>

namespace fourreal::cuda {

constexpr int kVectorBytes = 16;

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
    static_assert(kWidth == 1 || sizeof(T) * kWidth == kVectorBytes, "one element or 16 bytes");
    T item[kWidth];
};

template <typename T, int kWidth>
__device__ inline Pack<T, kWidth> load_pack(const T* source) {
    return *reinterpret_cast<const Pack<T, kWidth>*>(source);
}

template <typename T, int kWidth>
__device__ inline void store_pack(T* target, const Pack<T, kWidth>& pack) {
#if defined(__CUDA_ARCH__)
    if constexpr (kWidth > 1) {
        // nvcc splits the assignment below into stores of 4 bytes, although the type is aligned to 16.
        uint4 words;
        memcpy(&words, &pack, sizeof(words));
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(target)), "r"(words.x),
                     "r"(words.y), "r"(words.z), "r"(words.w)
                     : "memory");
        return;
    }
#endif
    *reinterpret_cast<Pack<T, kWidth>*>(target) = pack;
}

}  // namespace fourreal::cuda

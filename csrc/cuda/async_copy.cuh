// Copies from global to shared memory that run on while the thread goes on (cp.async, sm_80); at once on the host.
#pragma once

#include <cstring>

#include <cuda_runtime.h>

#include "vector_access.cuh"

namespace fourreal::cuda {

// 16 bytes, zeros if not `present`: then nothing is read. Both addresses are multiples of 16 bytes.
__device__ inline void copy_vector_async(void* shared, const void* global, bool present) {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(__cvta_generic_to_global(global)), "r"(present ? kVectorBytes : 0)
                 : "memory");
#else
    if (present) memcpy(shared, global, kVectorBytes);
    else memset(shared, 0, kVectorBytes);
#endif
}

// Ends a batch of the thread's copies.
__device__ inline void commit_copies() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for the thread's own copies but for its last `kPending` batches; a barrier then shows them to the block.
template <int kPending>
__device__ inline void wait_for_copies() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace fourreal::cuda

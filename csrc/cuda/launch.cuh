// The one place that uses CUDA's launch syntax. Tests define these two macros themselves, to run kernels on the host.
#pragma once

#include <cstddef>
#include <type_traits>

#include <cuda_runtime.h>

#if !defined(FOURREAL_LAUNCH)

namespace fourreal::cuda {

constexpr std::size_t kSharedBytesWithoutAsking = 48 << 10;

// What is refused becomes the last error. enable_if_t: the arguments are converted to what the kernel takes.
template <typename... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            std::enable_if_t<true, Parameters>... arguments) {
    if (shared_bytes > kSharedBytesWithoutAsking &&
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)) !=
            cudaSuccess)
        return;
    kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
}

}  // namespace fourreal::cuda

// kernel: a function pointer; shared_bytes: of dynamic shared memory.
#define FOURREAL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    fourreal::cuda::launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

// Within a kernel: `type* const name`, the dynamic shared memory of the block.
#define FOURREAL_DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char fourreal_dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(fourreal_dynamic_shared)

#endif

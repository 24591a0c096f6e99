// Launches a persistent kernel: as many blocks as the device runs at once, one on a multiprocessor unless told.
#pragma once

#if !defined(FOURREAL_HOPPER_EMULATION)

#include <algorithm>

#include <cuda_runtime.h>

#include "launch.cuh"

namespace fourreal::cuda {

// Returns a CUDA error number. A device without the kernel's instructions gives cudaErrorNotSupported.
template <int kBlocksOfMultiprocessor = 1, typename Kernel, typename Parameters>
int launch_persistent(Kernel kernel, int most_blocks, int threads, int shared_bytes, void* stream,
                      const Parameters& parameters) {
    int device = 0, major = 0, multiprocessors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess && major != 9) error = cudaErrorNotSupported;
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) {
        static_cast<void>(cudaGetLastError());  // a later launch must not report this error as its own
        return static_cast<int>(error);
    }
    const int blocks = std::min(most_blocks, kBlocksOfMultiprocessor * multiprocessors);
    kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(parameters);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace fourreal::cuda

#endif

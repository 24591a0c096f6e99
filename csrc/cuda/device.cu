#include "fourreal/device.hpp"

#include <cuda_runtime.h>

namespace fourreal::cuda {

int device_count(int* count) {
    const cudaError_t error = cudaGetDeviceCount(count);
    if (error != cudaSuccess) {
        *count = 0;
        static_cast<void>(cudaGetLastError());  // a later launch must not report this error as its own
    }
    return static_cast<int>(error);
}

const char* error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace fourreal::cuda

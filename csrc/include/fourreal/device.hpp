// The CUDA devices of this machine, and what a CUDA error means.
#pragma once

namespace fourreal::cuda {

// Writes the number of usable devices, 0 on failure. Returns a cudaError_t.
int device_count(int* count);

const char* error_string(int error);

}  // namespace fourreal::cuda

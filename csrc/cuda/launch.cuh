// The one place that uses CUDA's launch syntax. Tests define FOURREAL_LAUNCH themselves, to run kernels on the host.
#pragma once

#include <cuda_runtime.h>

#if !defined(FOURREAL_LAUNCH)
#define FOURREAL_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#endif

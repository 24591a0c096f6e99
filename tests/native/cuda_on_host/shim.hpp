// Included before a .cu file that g++ compiles as C++: runs its kernels on the host, one thread after another.
// Enough for kernels without barriers, shuffles and shared memory.
#pragma once

#include <cuda_runtime.h>

namespace cuda_on_host {

inline dim3 grid_size;
inline dim3 block_size;
inline dim3 block_index;
inline dim3 thread_index;

template <typename Kernel, typename... Arguments>
void launch(Kernel kernel, dim3 grid, dim3 block, const Arguments&... arguments) {
    grid_size = grid;
    block_size = block;
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y)
        for (block_index.x = 0; block_index.x < grid.x; ++block_index.x)
            for (thread_index.y = 0; thread_index.y < block.y; ++thread_index.y)
                for (thread_index.x = 0; thread_index.x < block.x; ++thread_index.x) kernel(arguments...);
}

}  // namespace cuda_on_host

#define gridDim cuda_on_host::grid_size
#define blockDim cuda_on_host::block_size
#define blockIdx cuda_on_host::block_index
#define threadIdx cuda_on_host::thread_index
#undef __launch_bounds__
#define __launch_bounds__(...)
#define cudaGetLastError() cudaSuccess
#define FOURREAL_LAUNCH(kernel, grid, block, stream, ...) \
    (static_cast<void>(stream), cuda_on_host::launch(kernel, grid, block, __VA_ARGS__))

// Included before a .cu file that g++ compiles as C++: CUDA's names for a block whose threads are fibers on the host.
//
// What it does not offer does not compile. `__shared__` variables belong in functions of an unnamed namespace, as they
// share a section, which gcc does not allow for functions that several files may define.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <cuda_runtime.h>

#include "runtime.hpp"

#define gridDim cuda_on_host::grid_size
#define blockDim cuda_on_host::block_size
#define blockIdx cuda_on_host::block_index
#define threadIdx cuda_on_host::thread_index
#define warpSize static_cast<int>(cuda_on_host::kWarpSize)
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static __attribute__((section("cuda_on_host_shared")))
#define cudaGetLastError() cuda_on_host::take_last_error()
#define FOURREAL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    (static_cast<void>(stream), cuda_on_host::launch(kernel, grid, block, shared_bytes, __VA_ARGS__))
#define FOURREAL_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(cuda_on_host::dynamic_shared())

using std::max;
using std::min;

inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }

namespace cuda_on_host {

// Arguments are converted to what the kernel takes, as by CUDA; enable_if_t keeps them out of the deduction.
template <typename... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            std::enable_if_t<true, Parameters>... arguments) {
    run_grid(grid, block, shared_bytes, [&] { kernel(arguments...); });
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned source_lane, int line) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "as CUDA's shuffles");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = exchange_in_warp(WarpOperation::kShuffle, mask, bits, source_lane, line);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

inline unsigned first_of_segment(int width) { return lane_index() & ~static_cast<unsigned>(width - 1); }

}  // namespace cuda_on_host

inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_host::synchronize_block(line); }

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    cuda_on_host::exchange_in_warp(cuda_on_host::WarpOperation::kSynchronize, mask, 0, 0, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return static_cast<unsigned>(cuda_on_host::exchange_in_warp(cuda_on_host::WarpOperation::kBallot, mask,
                                                                predicate != 0, 0, line));
}

inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
    const unsigned lane = cuda_on_host::first_of_segment(width) + (static_cast<unsigned>(source) & (width - 1));
    return cuda_on_host::shuffle(mask, value, lane, line);
}

// A lane without a partner in its segment keeps its own value.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    const unsigned lane = cuda_on_host::lane_index();
    const bool inside = lane >= cuda_on_host::first_of_segment(width) + delta;
    return cuda_on_host::shuffle(mask, value, inside ? lane - delta : lane, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    const unsigned lane = cuda_on_host::lane_index();
    const bool inside = lane + delta < cuda_on_host::first_of_segment(width) + width;
    return cuda_on_host::shuffle(mask, value, inside ? lane + delta : lane, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, int line = __builtin_LINE()) {
    const unsigned lane = cuda_on_host::lane_index();
    const unsigned partner = lane ^ static_cast<unsigned>(lane_mask);
    const bool inside = partner < cuda_on_host::first_of_segment(width) + width;
    return cuda_on_host::shuffle(mask, value, inside ? partner : lane, line);
}

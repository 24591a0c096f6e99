// Runs grids of thread blocks on the host: what the CUDA names in shim.hpp stand for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include <cuda_runtime.h>

namespace cuda_on_host {

constexpr unsigned kWarpSize = 32;

// Of the thread that is running.
extern dim3 grid_size;
extern dim3 block_size;
extern dim3 block_index;
extern dim3 thread_index;

// The block's dynamic shared memory: exactly as many bytes as the launch asked for.
void* dynamic_shared();

// Blocks one after another; in each, threads run until they wait for others. Half of the blocks start with their last
// thread. What CUDA refuses (sizes of grid, block, shared memory) becomes the last error.
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& thread);

cudaError_t take_last_error();

// Every thread of the block must call it from the same line: all wait for each other. Aborts with a message otherwise.
void synchronize_block(int line);

enum class WarpOperation { kSynchronize, kShuffle, kBallot };

// Every lane in `mask` must make the same call from the same line: all wait for each other. Aborts otherwise.
// A shuffle returns the bits of lane `source_lane`; a ballot a bit for every lane whose bits are not 0.
std::uint64_t exchange_in_warp(WarpOperation operation, unsigned mask, std::uint64_t bits, unsigned source_lane,
                               int line);

unsigned lane_index();

}  // namespace cuda_on_host

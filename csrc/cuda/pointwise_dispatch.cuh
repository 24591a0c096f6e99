// From a call of pointwise attention to a launch of the kernel for its element type and head dim.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "launch.cuh"
#include "pointwise_rows.cuh"

namespace fourreal::cuda {

// Any length: rows are read from global memory, again for each query.
int pointwise_long_forward(const AttentionForward& args, void* stream);
int pointwise_long_backward(const AttentionBackward& args, void* stream);

template <typename Kernels, typename T>
int launch_pointwise_type(const PointwiseLaunch<Kernels::kOperandCount>& launch, const PointwisePlan& plan,
                          cudaStream_t stream) {
    const std::int64_t tile = plan.tiles.positions();
    const dim3 grid(static_cast<unsigned>((plan.positions + tile - 1) / tile));
    const dim3 block(static_cast<unsigned>(plan.warps * kWarpLanes));
    const auto bytes = static_cast<std::size_t>(plan.shared_bytes);
    constexpr auto kernel = Kernels::template kernel<T>();
    FOURREAL_LAUNCH(kernel, grid, block, bytes, stream, launch);
    return static_cast<int>(cudaGetLastError());
}

template <typename Kernels>
int launch_pointwise(PointwiseLaunch<Kernels::kOperandCount> launch, const PointwisePlan& plan,
                     const AttentionShape& shape, const PointwiseAxes& axes, void* stream) {
    launch.tiles = plan.tiles;
    for (int i = 0; i < kPositionAxes; ++i)
        launch.position_sizes[i] =
            axes.position[i] < 0 ? 1u : static_cast<std::uint32_t>(shape.sizes[axes.position[i]]);
    launch.positions = static_cast<std::uint32_t>(plan.positions);
    launch.channels = static_cast<int>(shape.sizes[kAttChannel]);
    launch.lane_bits = row_lane_bits(shape.sizes[kAttChannel]);
    launch.scale = shape.scale;
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    switch (shape.dtype) {
        case DType::kFloat32: return launch_pointwise_type<Kernels, float>(launch, plan, cuda_stream);
        case DType::kFloat16: return launch_pointwise_type<Kernels, __half>(launch, plan, cuda_stream);
        case DType::kBFloat16: return launch_pointwise_type<Kernels, __nv_bfloat16>(launch, plan, cuda_stream);
        case DType::kFloat64: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace fourreal::cuda

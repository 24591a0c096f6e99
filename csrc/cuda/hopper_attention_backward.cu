#include "fourreal/hopper_attention.hpp"

#include <cstdint>

#include "hopper_attention_backward_kernel.cuh"
#include "hopper_attention_statistics.cuh"
#include "hopper_launch.cuh"
#include "hopper_tensors.hpp"

namespace fourreal::cuda {
namespace {

// sm_80 and sm_100 have not all of the instructions: their kernels are empty and never launched.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kStatisticsThreads)
    hopper_statistics_kernel(const __grid_constant__ StatisticsParameters parameters) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(FOURREAL_HOPPER_EMULATION)
    write_statistics<T, kHeadDim>(parameters);
#endif
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    hopper_gradient_kernel(const __grid_constant__ GradientParameters parameters) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(FOURREAL_HOPPER_EMULATION)
    hopper_attention_gradients<Config>(parameters);
#endif
}

QueryStatistics query_statistics(const FrameMap& frames, float* scratch) {
    return {scratch, scratch + QueryStatistics::rows(frames) + QueryStatistics::kRowsOutside};
}

template <typename T, int kHeadDim>
int launch_statistics(const AttentionBackward& args, float* scratch, void* stream) {
    StatisticsParameters parameters{};
    parameters.frames = frame_map(args.shape);
    parameters.statistics = query_statistics(parameters.frames, scratch);
    parameters.out = args.out.data;
    parameters.grad_out = args.grad_out.data;
    parameters.lse = static_cast<const float*>(args.lse.data);
    parameters.grad_lse = static_cast<const float*>(args.grad_lse.data);
    for (int axis = 0; axis < kAttentionAxes - 1; ++axis) {
        parameters.out_strides[axis] = args.out.strides[axis];
        parameters.grad_out_strides[axis] = args.grad_out.strides[axis];
        parameters.lse_strides[axis] = args.lse.strides[axis];
        parameters.grad_lse_strides[axis] = args.grad_lse.strides[axis];
    }
    constexpr int kBlocksOfMultiprocessor = 4, kRowsOfABlock = kStatisticsThreads / (kHeadDim / 8);
    const std::int64_t rows = QueryStatistics::rows(parameters.frames) + QueryStatistics::kRowsOutside;
    const int most_blocks = static_cast<int>((rows + kRowsOfABlock - 1) / kRowsOfABlock);
    return launch_persistent<kBlocksOfMultiprocessor>(hopper_statistics_kernel<T, kHeadDim>, most_blocks,
                                                      kStatisticsThreads, 0, stream, parameters);
}

template <typename Tensor>
int map_tensor(const Tensor& tensor, const AttentionShape& shape, int box_rows, MappedTensor* mapped) {
    return encode(tensor, shape, box_rows, &mapped->map, &mapped->planes);
}

template <typename Config>
int launch_gradients(const AttentionBackward& args, float* scratch, void* stream) {
    GradientParameters parameters{};
    const FrameMap frames = frame_map(args.shape);
    parameters.tiles = {{frames, frames}, 1, Config::kResidentRows};
    parameters.statistics = query_statistics(frames, scratch);
    parameters.resident_box = frame_box_rows(frames.shape.tokens, kWgmmaRows);
    parameters.listed_box = frame_box_rows(frames.shape.tokens, Config::kListedRows);
    parameters.scale_log2 = positive_scale_log2(args.shape.scale);
    parameters.scale = args.shape.scale;
    MappedTensor* const queries = Config::kOfKeys ? parameters.listed : parameters.resident;
    MappedTensor* const keys = Config::kOfKeys ? parameters.resident : parameters.listed;
    const int query_box = Config::kOfKeys ? parameters.listed_box : parameters.resident_box;
    const int key_box = Config::kOfKeys ? parameters.resident_box : parameters.listed_box;
    int error = map_tensor(args.q, args.shape, query_box, &queries[0]);
    if (error == 0) error = map_tensor(args.grad_out, args.shape, query_box, &queries[1]);
    if (error == 0) error = map_tensor(args.k, args.shape, key_box, &keys[0]);
    if (error == 0) error = map_tensor(args.v, args.shape, key_box, &keys[1]);
    const AttentionOutput& first = Config::kOfKeys ? args.dk : args.dq;
    if (error == 0) error = map_tensor(first, args.shape, parameters.resident_box, &parameters.gradients[0]);
    if (error == 0 && Config::kOfKeys)
        error = map_tensor(args.dv, args.shape, parameters.resident_box, &parameters.gradients[1]);
    if (error != 0) return error;
    return launch_persistent(hopper_gradient_kernel<Config>, parameters.tiles.tiles(), Config::kThreads,
                             Config::kSharedBytes, stream, parameters);
}

template <typename T, int kHeadDim, int kQueryRows, int kKeyRows, int kKeyStages>
int launch_backward(const AttentionBackward& args, float* scratch, void* stream) {
    using OfKeys = GradientConfig<T, kHeadDim, kQueryRows, 3, GradientsOf::kKeys>;
    using OfQueries = GradientConfig<T, kHeadDim, kKeyRows, kKeyStages, GradientsOf::kQueries>;
    int error = launch_statistics<T, kHeadDim>(args, scratch, stream);
    if (error == 0) error = launch_gradients<OfKeys>(args, scratch, stream);
    if (error == 0) error = launch_gradients<OfQueries>(args, scratch, stream);
    return error;
}

template <typename T>
int launch_head_dim(const AttentionBackward& args, float* scratch, void* stream) {
    if (args.shape.sizes[kAttChannel] == 64) return launch_backward<T, 64, 96, 128, 3>(args, scratch, stream);
    return launch_backward<T, 128, 64, 128, 2>(args, scratch, stream);
}

}  // namespace

const char* hopper_attention_backward_refusal(const AttentionBackward& args) {
    const AttentionShape& shape = args.shape;
    if (const char* reason = frame_shape_refusal(shape)) return reason;
    for (const AttentionInput* tensor : {&args.q, &args.k, &args.v, &args.out, &args.grad_out})
        if (const char* reason = tensor_refusal(*tensor, shape)) return reason;
    for (const AttentionOutput* tensor : {&args.dq, &args.dk, &args.dv})
        if (const char* reason = tensor_refusal(*tensor, shape)) return reason;
    return nullptr;
}

std::int64_t hopper_attention_backward_floats(const AttentionShape& shape) {
    return 2 * (QueryStatistics::rows(frame_map(shape)) + QueryStatistics::kRowsOutside);
}

int hopper_attention_backward(const AttentionBackward& args, float* scratch, void* stream) {
    if (args.shape.dtype == DType::kBFloat16) return launch_head_dim<BFloat16>(args, scratch, stream);
    return launch_head_dim<Float16>(args, scratch, stream);
}

}  // namespace fourreal::cuda

#include "fourreal/hopper_attention.hpp"

#include "hopper_attention_kernel.cuh"
#include "hopper_launch.cuh"
#include "hopper_tensors.hpp"

namespace fourreal::cuda {
namespace {

// sm_80 and sm_100 have none of the instructions: their kernels are empty and never launched.
template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    hopper_attention_kernel(const __grid_constant__ HopperParameters parameters) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(FOURREAL_HOPPER_EMULATION)
    hopper_attention<Config>(parameters);
#endif
}

int describe_stream(const AttentionForward& args, const HopperParameters& parameters, HopperStream* stream) {
    int error = encode(args.q, args.shape, parameters.query_box, &stream->q, &stream->q_planes);
    if (error == 0) error = encode(args.k, args.shape, parameters.key_box, &stream->k, &stream->k_planes);
    if (error == 0) error = encode(args.v, args.shape, parameters.key_box, &stream->v, &stream->v_planes);
    if (error == 0) error = encode(args.out, args.shape, parameters.query_box, &stream->out, &stream->out_planes);
    stream->lse = static_cast<float*>(args.lse.data);
    for (int axis = 0; axis < kAttentionAxes - 1; ++axis) stream->lse_strides[axis] = args.lse.strides[axis];
    return error;
}

template <typename Config>
int launch(const AttentionForward& first, const AttentionForward* second, void* stream) {
    HopperParameters parameters{};
    parameters.tiles = {{frame_map(first.shape), frame_map((second ? second : &first)->shape)}, second ? 2 : 1,
                        Config::kQueryRows};
    const int tokens = parameters.tiles.maps[0].shape.tokens;
    parameters.query_box = frame_box_rows(tokens, kWgmmaRows);
    parameters.key_box = frame_box_rows(tokens, Config::kKeyRows);
    parameters.scale_log2 = positive_scale_log2(first.shape.scale);
    int error = describe_stream(first, parameters, &parameters.streams[0]);
    if (error == 0 && second) error = describe_stream(*second, parameters, &parameters.streams[1]);
    if (error != 0) return error;
    return launch_persistent(hopper_attention_kernel<Config>, parameters.tiles.tiles(), Config::kThreads,
                             Config::kSharedBytes, stream, parameters);
}

template <typename T>
int launch_head_dim(const AttentionForward& first, const AttentionForward* second, void* stream) {
    if (first.shape.sizes[kAttChannel] == 64) return launch<HopperConfig<T, 64, 128, 3>>(first, second, stream);
    const int keys = frame_map(first.shape).key_rows() + (second ? frame_map(second->shape).key_rows() : 0);
    if (cheaper_key_tile(keys, 128, 192) == 128) return launch<HopperConfig<T, 128, 128, 2>>(first, second, stream);
    return launch<HopperConfig<T, 128, 192, 2>>(first, second, stream);
}

}  // namespace

const char* hopper_attention_refusal(const AttentionForward& args) {
    const AttentionShape& shape = args.shape;
    if (const char* reason = frame_shape_refusal(shape)) return reason;
    for (const AttentionInput* tensor : {&args.q, &args.k, &args.v})
        if (const char* reason = tensor_refusal(*tensor, shape)) return reason;
    return tensor_refusal(args.out, shape);
}

int hopper_attention_forward(const AttentionForward& first, const AttentionForward* second, void* stream) {
    if (first.shape.dtype == DType::kBFloat16) return launch_head_dim<BFloat16>(first, second, stream);
    return launch_head_dim<Float16>(first, second, stream);
}

}  // namespace fourreal::cuda

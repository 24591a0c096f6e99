#include "fourreal/hopper_attention.hpp"

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "hopper_attention_kernel.cuh"
#include "hopper_launch.cuh"

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

constexpr std::int64_t kAlignment = 16;
constexpr int kElementBytes = 2;

struct Layout {
    TensorPlanes planes;
    std::int64_t columns;
    std::int64_t plane_count;
    std::int64_t plane_stride;
};

// The stride of an axis of size 1 is arbitrary.
template <typename Tensor>
std::int64_t stride_of(const Tensor& tensor, const AttentionShape& shape, AttentionAxis axis) {
    return shape.sizes[axis] > 1 ? tensor.strides[axis] : 0;
}

// The columns and planes of a tensor; false if it takes more than five dims.
template <typename Tensor>
bool find_layout(const Tensor& tensor, const AttentionShape& shape, Layout* layout) {
    const std::int64_t batches = shape.sizes[kAttBatch], heads = shape.sizes[kAttHead];
    const std::int64_t head_dim = shape.sizes[kAttChannel];
    const std::int64_t batch_stride = stride_of(tensor, shape, kAttBatch);
    const std::int64_t head_stride = stride_of(tensor, shape, kAttHead);
    if (heads == 1 || head_stride == head_dim) {
        *layout = {{static_cast<int>(head_dim), 1, 0}, heads * head_dim, batches, batch_stride};
        return true;
    }
    // Planes at multiples of the head's stride; those between the batch entries' heads are never read.
    if (batches > 1 && (head_stride <= 0 || batch_stride % head_stride != 0 || batch_stride / head_stride < heads))
        return false;
    const std::int64_t planes_of_batch = batches > 1 ? batch_stride / head_stride : 0;
    const std::int64_t count = (batches - 1) * planes_of_batch + heads;
    if (count > INT32_MAX) return false;
    *layout = {{0, static_cast<int>(planes_of_batch), 1}, head_dim, count, head_stride};
    return true;
}

template <typename Tensor>
const char* tensor_refusal(const Tensor& tensor, const AttentionShape& shape) {
    if (reinterpret_cast<std::uintptr_t>(tensor.data) % kAlignment != 0)
        return "its tensor maps take data aligned to 16 bytes";
    for (AttentionAxis axis : {kAttBatch, kAttView, kAttTime, kAttToken, kAttHead}) {
        if (shape.sizes[axis] == 1) continue;
        const std::int64_t bytes = tensor.strides[axis] * kElementBytes;
        if (bytes <= 0 || bytes % kAlignment != 0 || bytes >= std::int64_t{1} << 40)
            return "its tensor maps take strides that are positive multiples of 16 bytes";
    }
    Layout layout;
    if (!find_layout(tensor, shape, &layout))
        return "its tensor maps have five dims: heads must lie side by side, or batch entries a whole number of heads "
               "apart";
    return nullptr;
}

bool frame_axes(const AttentionAxes& axes, FrameAxes* result) {
    const AxisGroup view{true, false, true}, time{false, true, true};
    if (axes.count == 1 && axes.groups[0] == view) {
        *result = FrameAxes::kView;
    } else if (axes.count == 1 && axes.groups[0] == time) {
        *result = FrameAxes::kTime;
    } else if (axes.count == 2 && ((axes.groups[0] == view && axes.groups[1] == time) ||
                                   (axes.groups[0] == time && axes.groups[1] == view))) {
        *result = FrameAxes::kViewOrTime;
    } else {
        return false;
    }
    return true;
}

template <typename Tensor>
int encode(const Tensor& tensor, const AttentionShape& shape, int box_rows, TensorMap* map, TensorPlanes* planes) {
    Layout layout;
    if (!find_layout(tensor, shape, &layout)) return 1;
    *planes = layout.planes;
    // An axis of size 1 is never stepped along, but its stride has to be a legal one.
    const auto stride = [&](AttentionAxis axis) {
        return static_cast<std::uint64_t>(shape.sizes[axis] > 1 ? tensor.strides[axis] : layout.columns);
    };
    TensorMapLayout described{};
    const std::int64_t sizes[kMapDims] = {layout.columns, shape.sizes[kAttToken], shape.sizes[kAttTime],
                                          shape.sizes[kAttView], layout.plane_count};
    for (int dim = 0; dim < kMapDims; ++dim) {
        described.sizes[dim] = static_cast<std::uint64_t>(sizes[dim]);
        described.box[dim] = 1;
    }
    described.box[0] = kPanelColumns;
    described.box[1] = static_cast<std::uint32_t>(box_rows);
    described.strides[0] = stride(kAttToken);
    described.strides[1] = stride(kAttTime);
    described.strides[2] = stride(kAttView);
    described.strides[3] = static_cast<std::uint64_t>(layout.plane_count > 1 ? layout.plane_stride : layout.columns);
    return encode_tensor_map(map, shape.dtype, tensor.data, described);
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

FrameMap frame_map(const AttentionShape& shape) {
    FrameMap map{};
    frame_axes(shape.axes, &map.axes);
    const auto size = [&](AttentionAxis axis) { return static_cast<int>(shape.sizes[axis]); };
    map.shape = {size(kAttBatch), size(kAttView), size(kAttTime), size(kAttToken), size(kAttHead)};
    return map;
}

template <typename Config>
int launch(const AttentionForward& first, const AttentionForward* second, void* stream) {
    HopperParameters parameters{};
    parameters.tiles = {{frame_map(first.shape), frame_map((second ? second : &first)->shape)}, second ? 2 : 1,
                        Config::kQueryRows};
    const int tokens = parameters.tiles.maps[0].shape.tokens;
    parameters.query_box = frame_box_rows(tokens, kWgmmaRows);
    parameters.key_box = frame_box_rows(tokens, Config::kKeyRows);
    constexpr double kLog2OfE = 1.4426950408889634;
    // A scale of 0 becomes the smallest: masked scores are -inf, and their product with 0 is no number.
    parameters.scale_log2 = std::fmax(static_cast<float>(first.shape.scale * kLog2OfE), FLT_MIN);
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

constexpr int kMostTileRows = 192;

}  // namespace

const char* hopper_attention_refusal(const AttentionForward& args) {
    const AttentionShape& shape = args.shape;
    FrameAxes axes;
    if (!frame_axes(shape.axes, &axes)) return "its kernel takes the axes 'vn', 'tn' and 'vn|tn'";
    if (shape.dtype != DType::kFloat16 && shape.dtype != DType::kBFloat16)
        return "its kernel takes float16 and bfloat16";
    const std::int64_t head_dim = shape.sizes[kAttChannel];
    if (head_dim != 64 && head_dim != 128) return "its kernel takes head dims 64 and 128";
    if (!(shape.scale >= 0)) return "its kernel takes scales of at least 0";
    const std::int64_t sizes[5] = {shape.sizes[kAttBatch], shape.sizes[kAttView], shape.sizes[kAttTime],
                                   shape.sizes[kAttToken], shape.sizes[kAttHead]};
    if (!frame_tiles_fit(sizes, kMostTileRows)) return "its kernel counts rows in 31 bits";
    for (const AttentionInput* tensor : {&args.q, &args.k, &args.v})
        if (const char* reason = tensor_refusal(*tensor, shape)) return reason;
    return tensor_refusal(args.out, shape);
}

int hopper_attention_forward(const AttentionForward& first, const AttentionForward* second, void* stream) {
    if (first.shape.dtype == DType::kBFloat16) return launch_head_dim<BFloat16>(first, second, stream);
    return launch_head_dim<Float16>(first, second, stream);
}

}  // namespace fourreal::cuda

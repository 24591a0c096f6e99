// The tensors of an attention as the Hopper kernels see them: tensor maps of dims (columns, N, T, V, planes), and why
// there is none. Host only.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "fourreal/axis_attention.hpp"
#include "fourreal/frame_tiles.hpp"
#include "hopper_layout.hpp"
#include "hopper_tensor_map.hpp"

namespace fourreal::cuda {

constexpr std::int64_t kAlignment = 16;
constexpr int kElementBytes = 2;

// The dims of a tensor map that channels, heads and batch entries make.
struct MapDims {
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
bool find_layout(const Tensor& tensor, const AttentionShape& shape, MapDims* layout) {
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
    MapDims layout;
    if (!find_layout(tensor, shape, &layout))
        return "its tensor maps have five dims: heads must lie side by side, or batch entries a whole number of heads "
               "apart";
    return nullptr;
}

inline bool frame_axes(const AttentionAxes& axes, FrameAxes* result) {
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
    MapDims layout;
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

inline FrameMap frame_map(const AttentionShape& shape) {
    FrameMap map{};
    frame_axes(shape.axes, &map.axes);
    const auto size = [&](AttentionAxis axis) { return static_cast<int>(shape.sizes[axis]); };
    map.shape = {size(kAttBatch), size(kAttView), size(kAttTime), size(kAttToken), size(kAttHead)};
    return map;
}

constexpr int kMostTileRows = 192;

// Why the kernels do not take the axes, dtype, sizes or scale, or nullptr.
inline const char* frame_shape_refusal(const AttentionShape& shape) {
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
    return nullptr;
}

// A scale of 0 becomes the smallest: masked scores are -inf, and their product with 0 is no number.
inline float positive_scale_log2(float scale) {
    constexpr double kLog2OfE = 1.4426950408889634;
    return std::fmax(static_cast<float>(scale * kLog2OfE), FLT_MIN);
}

}  // namespace fourreal::cuda

// What a launch of pointwise attention is made of: the operands along positions and entries, and the tile of a block.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "fourreal/axis_attention.hpp"
#include "fourreal/pointwise_tiles.hpp"

namespace fourreal::cuda {

constexpr int kPositionAxes = 4;  // batch, the axis of views and timesteps that is not attended over, tokens, heads
constexpr int kLaneChannels = 8;  // channels of a row that a lane holds
constexpr int kWarpLanes = 32;
constexpr int kMaxWarps = 4;
constexpr std::int64_t kMostChannels = kWarpLanes * kLaneChannels;
constexpr std::int64_t kMostPositions = std::int64_t{1} << 31;

// 8, 16 or 32 lanes share a row; the others of a warp take further rows.
constexpr int row_lane_bits(std::int64_t channels) { return channels <= 64 ? 3 : channels <= 128 ? 4 : 5; }

// A tensor as the kernels see it. Rows are read and written in vectors if all of them start at multiples of 16 bytes.
struct PointwiseOperand {
    void* data;
    std::int64_t position_strides[kPositionAxes];
    std::int64_t entry_strides[2];
    bool vectors;
};

// Which axes of a call stand for the positions, outermost first, and for the entries; -1 for none.
struct PointwiseAxes {
    int position[kPositionAxes];
    int entry[2];
    int lengths[2];
    bool is_union;
};

inline PointwiseAxes pointwise_axes(const AttentionShape& shape, const std::int64_t* strides) {
    bool attended[2] = {};
    for (int i = 0; i < shape.axes.count; ++i) {
        attended[0] |= shape.axes.groups[i].view;
        attended[1] |= shape.axes.groups[i].time;
    }
    PointwiseAxes axes{{kAttBatch, -1, kAttToken, kAttHead}, {-1, -1}, {1, 1}, shape.axes.count == 2};
    const int view_and_time[2] = {kAttView, kAttTime};
    if (attended[0] && attended[1]) {
        const auto views = static_cast<int>(shape.sizes[kAttView]), times = static_cast<int>(shape.sizes[kAttTime]);
        const bool swapped = axes.is_union && first_axis_is_inner(views, times);
        for (int i = 0; i < 2; ++i) axes.entry[i] = view_and_time[swapped ? 1 - i : i];
    } else {
        axes.entry[1] = view_and_time[attended[0] ? 0 : 1];
        axes.position[1] = view_and_time[attended[0] ? 1 : 0];
    }
    for (int i = 0; i < 2; ++i)
        if (axes.entry[i] >= 0) axes.lengths[i] = static_cast<int>(shape.sizes[axes.entry[i]]);
    // Neighbouring positions are to be neighbours in memory.
    std::stable_sort(axes.position, axes.position + kPositionAxes, [&](int a, int b) {
        return (a < 0 ? INT64_MAX : strides[a]) > (b < 0 ? INT64_MAX : strides[b]);
    });
    return axes;
}

template <typename Pointer>
PointwiseOperand pointwise_operand(const AttentionTensor<Pointer>& tensor, const AttentionShape& shape,
                                   const PointwiseAxes& axes) {
    PointwiseOperand operand{};
    operand.data = const_cast<void*>(static_cast<const void*>(tensor.data));
    const std::int64_t width = 16 / element_size(shape.dtype);
    bool vectors = reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 && shape.sizes[kAttChannel] % width == 0;
    const auto stride = [&](int axis) {
        if (axis < 0 || shape.sizes[axis] == 1) return std::int64_t{0};
        vectors = vectors && tensor.strides[axis] % width == 0;
        return tensor.strides[axis];
    };
    for (int i = 0; i < kPositionAxes; ++i) operand.position_strides[i] = stride(axes.position[i]);
    operand.entry_strides[1] = stride(axes.entry[1]);
    // Without a first axis, what the second gives when it goes on: rows are then evenly spaced.
    operand.entry_strides[0] =
        axes.lengths[0] == 1 ? axes.lengths[1] * operand.entry_strides[1] : stride(axes.entry[0]);
    operand.vectors = vectors;
    return operand;
}

struct PointwisePlan {
    PointwiseTiles tiles;
    int warps;
    std::int64_t shared_bytes;
    std::int64_t positions;
    bool fits;
};

// Rows of the `staged` operands, then matrices of scores, then the offsets of the positions of all operands.
inline std::int64_t pointwise_shared_bytes(const PointwiseTiles& tiles, std::int64_t row_bytes, int staged,
                                           int matrices, int operands) {
    const std::int64_t rows = row_bytes * tiles.rows() * staged;
    const std::int64_t scores = std::int64_t{4} * tiles.slots() * tiles.columns() * matrices;
    return rows + scores + std::int64_t{8} * tiles.positions() * operands;
}

inline PointwisePlan pointwise_plan(const AttentionShape& shape, const PointwiseAxes& axes, int staged, int matrices,
                                    int operands, std::int64_t limit) {
    constexpr std::int64_t kMostEntries = 1 << 12;  // no more fit; keeps the products below within 32 bits
    constexpr std::int64_t kFewBytes = 64 << 10;    // several blocks of an SM are then in different phases
    PointwisePlan plan{};
    plan.positions = 1;
    for (int axis : axes.position)
        if (axis >= 0) plan.positions *= shape.sizes[axis];
    if (plan.positions > kMostPositions || std::int64_t{axes.lengths[0]} * axes.lengths[1] > kMostEntries) return plan;

    const bool lines = axes.is_union && axes.lengths[0] > 1;
    PointwiseTiles& tiles = plan.tiles;
    tiles.outer = lines ? axes.lengths[0] : 1;
    tiles.inner = lines ? axes.lengths[1] : axes.lengths[0] * axes.lengths[1];
    tiles.entry_columns = axes.lengths[1];
    const int lanes = 1 << row_lane_bits(shape.sizes[kAttChannel]);
    const int groups = kWarpLanes / lanes;
    const std::int64_t row_bytes = lanes * kLaneChannels * element_size(shape.dtype);
    const auto bytes = [&] { return pointwise_shared_bytes(tiles, row_bytes, staged, matrices, operands); };
    tiles.position_bits = 0;
    tiles.position_bits = filling_position_bits(tiles.line_tiles(), groups);
    while (tiles.position_bits > 0 && bytes() > std::min(kFewBytes, limit)) --tiles.position_bits;
    plan.warps = std::clamp((tiles.line_tiles() + groups - 1) / groups, 1, kMaxWarps);
    plan.shared_bytes = bytes();
    plan.fits = plan.shared_bytes <= limit;
    return plan;
}

}  // namespace fourreal::cuda

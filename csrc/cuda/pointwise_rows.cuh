// Rows of pointwise attention: from global to shared memory, from there to registers, and results back.
//
// A row of `lanes` * 8 channels, zero beyond those of the tensors, is shared by a group of lanes: each holds 8 channels,
// in one vector of 16 bytes for 16-bit elements and in two, `lanes` vectors apart, for float.
#pragma once

#include <cstdint>

#include "async_copy.cuh"
#include "numbers.cuh"
#include "pointwise_launch.hpp"
#include "vector_access.cuh"

namespace fourreal::cuda {

template <int kOperands>
struct PointwiseLaunch {
    PointwiseOperand operands[kOperands];
    PointwiseTiles tiles;
    std::uint32_t position_sizes[kPositionAxes];
    std::uint32_t positions;
    int channels;
    int lane_bits;  // rows are shared by 1 << lane_bits lanes: 8, 16 or 32
    float scale;
};

// The rows of a tile in shared memory as a lane of a group of `lanes` sees them.
template <typename T>
struct Rows {
    static constexpr int kWidth = kVectorBytes / sizeof(T);
    static constexpr int kVectors = kLaneChannels / kWidth;
    using Vector = Pack<T, kWidth>;

    int lanes;
    int lane;
    int group;
    int groups;  // of the block
    int pitch;   // elements of a row

    template <typename Launch>
    __device__ explicit Rows(const Launch& launch)
        : lanes(1 << launch.lane_bits),
          lane(static_cast<int>(threadIdx.x) & (lanes - 1)),
          group(static_cast<int>(threadIdx.x) >> launch.lane_bits),
          groups(static_cast<int>(blockDim.x) >> launch.lane_bits),
          pitch(kLaneChannels << launch.lane_bits) {}

    // The first channel of the lane's i-th vector.
    __device__ int channel(int i) const { return (lane + i * lanes) * kWidth; }

    // The lane's channels of a row in shared memory.
    __device__ void read(const T* rows, int row, float (&values)[kLaneChannels]) const {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const Vector vector = load_pack<T, kWidth>(rows + row * pitch + channel(i));
#pragma unroll
            for (int e = 0; e < kWidth; ++e) values[i * kWidth + e] = to_float(vector.item[e]);
        }
    }

    // Starts copying a row of a tensor to shared memory.
    __device__ void copy(T* target, const T* source, int channels, bool vectors) const {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const int first = channel(i);
            if (vectors && first < channels) {
                copy_vector_async(target + first, source + first);
                continue;
            }
            Vector vector;
#pragma unroll
            for (int e = 0; e < kWidth; ++e)
                vector.item[e] = first + e < channels ? source[first + e] : from_float<T>(0.0f);
            *reinterpret_cast<Vector*>(target + first) = vector;
        }
    }

    // Writes the lane's channels of a row of a tensor.
    __device__ void write(T* target, const float (&values)[kLaneChannels], int channels, bool vectors) const {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const int first = channel(i);
            Vector vector;
#pragma unroll
            for (int e = 0; e < kWidth; ++e) vector.item[e] = from_float<T>(values[i * kWidth + e]);
            if (vectors) {
                if (first < channels) store_pack(target + first, vector);
                continue;
            }
#pragma unroll
            for (int e = 0; e < kWidth; ++e)
                if (first + e < channels) target[first + e] = vector.item[e];
        }
    }
};

// Offsets of the first entries of the tile's positions, operand after operand. Past the last position: of the last one.
template <int kOperands>
__device__ void find_positions(const PointwiseLaunch<kOperands>& launch, std::int64_t* offsets) {
    const int bits = launch.tiles.position_bits;
    for (int index = threadIdx.x; index < kOperands << bits; index += blockDim.x) {
        std::uint32_t rest = (blockIdx.x << bits) + launch.tiles.copied_position(index);
        rest = min(rest, launch.positions - 1);
        const PointwiseOperand& operand = launch.operands[index >> bits];
        std::int64_t offset = 0;
#pragma unroll
        for (int axis = kPositionAxes - 1; axis >= 0; --axis) {
            const std::uint32_t size = launch.position_sizes[axis];
            offset += static_cast<std::int64_t>(rest % size) * operand.position_strides[axis];
            rest /= size;
        }
        offsets[index] = offset;
    }
}

// Whether a position of the tile exists.
template <int kOperands>
__device__ bool is_position(const PointwiseLaunch<kOperands>& launch, int position) {
    return (blockIdx.x << launch.tiles.position_bits) + position < launch.positions;
}

__device__ inline std::int64_t entry_offset(const PointwiseOperand& operand, int first, int second) {
    return first * operand.entry_strides[0] + second * operand.entry_strides[1];
}

// Starts copying all rows of operands kFirst <= o < kFirst + kCount; their rows follow each other in `rows`.
template <int kFirst, int kCount, typename T, int kOperands>
__device__ void copy_rows(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets, const Rows<T>& access,
                          T* rows) {
    const PointwiseTiles& tiles = launch.tiles;
    const int total = tiles.rows();
    for (int index = access.group; index < total; index += access.groups) {
        const int position = tiles.copied_position(index);
        const int entry = tiles.copied_entry(index);
        if (!is_position(launch, position)) continue;
        const int first = entry / tiles.entry_columns;
        const int second = entry % tiles.entry_columns;
        T* target = rows + tiles.row(position, 0, entry) * access.pitch;
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
            const PointwiseOperand& operand = launch.operands[kFirst + k];
            const T* source = static_cast<const T*>(operand.data) +
                              offsets[((kFirst + k) << tiles.position_bits) + position] +
                              entry_offset(operand, first, second);
            access.copy(target + k * total * access.pitch, source, launch.channels, operand.vectors);
        }
    }
}

// Writes the rows of a tile of a line: results of neighbouring entries.
template <typename T, int kOperands>
__device__ void write_rows(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets, const Rows<T>& access,
                           int which, const LineTile& tile, const float (&values)[kQueryTile][kLaneChannels]) {
    if (!is_position(launch, tile.position)) return;
    const PointwiseTiles& tiles = launch.tiles;
    const PointwiseOperand& operand = launch.operands[which];
    T* data = static_cast<T*>(operand.data) + offsets[(which << tiles.position_bits) + tile.position];
    const int entry = tile.line * tiles.inner + tile.first_query;
    int first = entry / tiles.entry_columns;
    int second = entry % tiles.entry_columns;
#pragma unroll
    for (int i = 0; i < kQueryTile; ++i) {
        if (i >= tile.queries) continue;
        access.write(data + entry_offset(operand, first, second), values[i], launch.channels, operand.vectors);
        if (++second == tiles.entry_columns) {
            second = 0;
            ++first;
        }
    }
}

}  // namespace fourreal::cuda

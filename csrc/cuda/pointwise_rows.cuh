// Rows of pointwise attention: from global to shared memory, from there to registers, and results back.
//
// A row of `lanes` * 8 channels, zero beyond those of the tensor, is shared by a group of lanes: each holds 8 channels,
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

template <typename T, int kWidth>
__device__ void to_floats(const Pack<T, kWidth>& pack, float* values) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) values[e] = to_float(pack.item[e]);
}

// An instruction for each element; nvcc takes two for the upper one of a word.
template <int kWidth>
__device__ void to_floats(const Pack<__nv_bfloat16, kWidth>& pack, float* values) {
    std::uint32_t words[kWidth / 2];
    memcpy(words, &pack, sizeof(words));
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
        const std::uint32_t pair[2] = {words[i] << 16, words[i] & 0xffff0000u};
        memcpy(values + 2 * i, pair, sizeof(pair));
    }
}

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
        for (int i = 0; i < kVectors; ++i)
            to_floats(load_pack<T, kWidth>(rows + row * pitch + channel(i)), values + i * kWidth);
    }

    // Starts copying a row of a tensor to shared memory.
    __device__ void copy_vectors(T* target, const T* source, int channels) const {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const bool present = channel(i) < channels;
            copy_vector_async(target + channel(i), source + (present ? channel(i) : 0), present);
        }
    }

    __device__ void copy_elements(T* target, const T* source, int channels) const {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const int first = channel(i);
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
            if (first >= channels) continue;
            Vector vector;
#pragma unroll
            for (int e = 0; e < kWidth; ++e) vector.item[e] = from_float<T>(values[i * kWidth + e]);
            if (vectors) store_pack(target + first, vector);
            else write_elements(target + first, vector, min(kWidth, channels - first));
        }
    }

private:
    // Shifts the vector instead of indexing it, which unrolled would be most of a kernel's code.
    __device__ static void write_elements(T* target, const Vector& vector, int count) {
        constexpr int kBits = 8 * sizeof(T);
        std::uint64_t words[2];
        memcpy(words, &vector, sizeof(words));
#pragma unroll 1
        for (int e = 0; e < count; ++e) {
            T item;
            memcpy(&item, words, sizeof(T));
            target[e] = item;
            words[0] = words[0] >> kBits | words[1] << (64 - kBits);
            words[1] >>= kBits;
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

// The rows of a position of a tensor, `step` entries apart, without a division for each.
template <typename T>
class EntryWalk {
public:
    __device__ EntryWalk(const PointwiseOperand& operand, std::int64_t position_offset, int columns, int entry,
                         int step)
        : columns_(columns), wrap_(operand.entry_strides[0] - columns * operand.entry_strides[1]) {
        const int first = quotient(entry, columns);
        const int first_step = quotient(step, columns);
        second_ = entry - first * columns;
        second_step_ = step - first_step * columns;
        row_ = static_cast<T*>(operand.data) + position_offset + entry_offset(operand, first, second_);
        step_ = entry_offset(operand, first_step, second_step_);
    }

    __device__ T* row() const { return row_; }

    // Whether all entries are the same distance apart.
    __device__ bool is_even() const { return wrap_ == 0; }

    __device__ void advance_evenly() { row_ += step_; }

    __device__ void advance() {
        second_ += second_step_;
        const bool wraps = second_ >= columns_;
        second_ -= wraps ? columns_ : 0;
        row_ += wraps ? step_ + wrap_ : step_;
    }

private:
    int columns_;
    std::int64_t wrap_;
    int second_;
    int second_step_;
    T* row_;
    std::int64_t step_;
};

// Starts copying all rows of an operand. A group of lanes keeps to one position.
template <typename T, int kOperands>
__device__ void copy_rows(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets, const Rows<T>& access,
                          int which, T* rows) {
    const PointwiseTiles& tiles = launch.tiles;
    const PointwiseOperand& operand = launch.operands[which];
    const int position = tiles.copied_position(access.group);
    if (!is_position(launch, position)) return;
    const int step = tiles.copied_entry(access.groups);
    int entry = tiles.copied_entry(access.group);
    const std::int64_t offset = offsets[(which << tiles.position_bits) + position];
    EntryWalk<const T> source(operand, offset, tiles.entry_columns, entry, step);
    T* target = rows + tiles.row(position, 0, entry) * access.pitch;
    const int target_step = step * access.pitch;
    if (!operand.vectors) {
#pragma unroll 1
        for (; entry < tiles.entries(); entry += step, target += target_step, source.advance())
            access.copy_elements(target, source.row(), launch.channels);
    } else if (source.is_even()) {
#pragma unroll 4
        for (; entry < tiles.entries(); entry += step, target += target_step, source.advance_evenly())
            access.copy_vectors(target, source.row(), launch.channels);
    } else {
#pragma unroll 2
        for (; entry < tiles.entries(); entry += step, target += target_step, source.advance())
            access.copy_vectors(target, source.row(), launch.channels);
    }
}

// Writes the rows of a tile of a line: results of neighbouring entries.
template <typename T, int kOperands>
__device__ void write_rows(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets, const Rows<T>& access,
                           int which, const LineTile& tile, const float (&values)[kQueryTile][kLaneChannels]) {
    if (!is_position(launch, tile.position)) return;
    const PointwiseTiles& tiles = launch.tiles;
    const PointwiseOperand& operand = launch.operands[which];
    EntryWalk<T> target(operand, offsets[(which << tiles.position_bits) + tile.position], tiles.entry_columns,
                        tile.line * tiles.inner + tile.first_query, 1);
#pragma unroll
    for (int i = 0; i < kQueryTile; ++i) {
        if (i >= tile.queries) break;
        access.write(target.row(), values[i], launch.channels, operand.vectors);
        target.advance();
    }
}

}  // namespace fourreal::cuda

// What the kernels of QK-norm and rotary embedding share: how a row (one head of one token, up to 256 channels) is
// spread over lanes of a warp.
//
// A row is taken by 1 to 32 lanes, a power of two, each with 8 channels: one pack of 16 bytes of a 16-bit type, or two
// of float. Where 16-byte accesses do not fit, the same lanes move the same channels one by one, so that results have
// the same bits whatever the strides.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "fourreal/merged_axes.hpp"
#include "fourreal/qk_norm_rope.hpp"
#include "numbers.cuh"
#include "vector_access.cuh"

namespace fourreal::cuda {

constexpr int kNormRopeThreads = 256;
constexpr int kWarpLanes = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kLaneChannels = 8;
constexpr int kLanePairs = kLaneChannels / 2;
constexpr int kMaxRowChannels = kWarpLanes * kLaneChannels;
constexpr int kStreams = 2;  // q and k
constexpr int kTokenAxes = 4;  // batch, view, time, token

template <typename T>
constexpr int kPackChannels = kVectorBytes / static_cast<int>(sizeof(T));
template <typename T>
constexpr int kLanePacks = kLaneChannels / kPackChannels<T>;

struct RowGeometry {
    int channels;
    int lanes;               // per row
    std::uint32_t items;     // what the groups of lanes take turns at: (token, chunk of heads)
    Divisor head_chunks;     // chunks per token; a chunk has heads chunk, chunk + head_chunks, ...
    int heads;
    float inverse_channels;  // 1 / D
};

// The channels of a row that are one lane's.
struct LaneShare {
    int first;
    int step;
    int channels;

    template <typename T>
    __device__ static LaneShare of(const RowGeometry& geometry) {
        const int lane = static_cast<int>(threadIdx.x) & (geometry.lanes - 1);
        return {lane * kPackChannels<T>, geometry.lanes * kPackChannels<T>, geometry.channels};
    }
};

template <typename T>
struct LaneRow {
    Pack<T, kPackChannels<T>> packs[kLanePacks<T>];

    __device__ float value(int i) const {
        return to_float(packs[i / kPackChannels<T>].item[i % kPackChannels<T>]);
    }
    __device__ void set(int i, float value) {
        packs[i / kPackChannels<T>].item[i % kPackChannels<T>] = from_float<T>(value);
    }
};

// Zeros where the row ends, and everywhere if it is not `valid`.
template <typename T, bool kVector>
__device__ inline LaneRow<T> load_row(const T* row, const LaneShare& share, bool valid) {
    constexpr int kWidth = kPackChannels<T>;
    LaneRow<T> values;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) values.set(i, 0.0f);
#pragma unroll
    for (int p = 0; p < kLanePacks<T>; ++p) {
        const int channel = share.first + p * share.step;
        if constexpr (kVector) {
            if (valid && channel < share.channels) values.packs[p] = load_pack<T, kWidth>(row + channel);
        } else {
#pragma unroll
            for (int i = 0; i < kWidth; ++i)
                if (valid && channel + i < share.channels) values.packs[p].item[i] = row[channel + i];
        }
    }
    return values;
}

template <typename T, bool kVector>
__device__ inline void store_row(T* row, const LaneRow<T>& values, const LaneShare& share) {
    constexpr int kWidth = kPackChannels<T>;
#pragma unroll
    for (int p = 0; p < kLanePacks<T>; ++p) {
        const int channel = share.first + p * share.step;
        if constexpr (kVector) {
            if (channel < share.channels) store_pack(row + channel, values.packs[p]);
        } else {
#pragma unroll
            for (int i = 0; i < kWidth; ++i)
                if (channel + i < share.channels) row[channel + i] = values.packs[p].item[i];
        }
    }
}

// The parameters of a lane's channels, from D contiguous floats.
template <typename T>
__device__ inline void load_parameters(const float* parameters, const LaneShare& share,
                                       float (&values)[kLaneChannels]) {
    constexpr int kWidth = kPackChannels<T>;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) {
        const int channel = share.first + i / kWidth * share.step + i % kWidth;
        values[i] = channel < share.channels ? parameters[channel] : 0.0f;
    }
}

// cos or sin of a lane's pairs of channels; `vectors`: neighbouring pairs lie together, aligned to a pack's worth.
template <typename T>
__device__ inline void load_angles(const float* angles, std::int64_t pair_stride, bool vectors, const LaneShare& share,
                                   bool valid, float (&values)[kLanePairs]) {
    constexpr int kWidth = kPackChannels<T> / 2;
    struct alignas(sizeof(float) * kWidth) Angles {
        float item[kWidth];
    };
#pragma unroll
    for (int p = 0; p < kLanePacks<T>; ++p) {
        const int pair = (share.first + p * share.step) / 2;
        Angles loaded{};
        if (vectors) {
            if (valid && 2 * pair < share.channels) loaded = *reinterpret_cast<const Angles*>(angles + pair);
        } else {
#pragma unroll
            for (int i = 0; i < kWidth; ++i)
                if (valid && 2 * (pair + i) < share.channels) loaded.item[i] = angles[(pair + i) * pair_stride];
        }
#pragma unroll
        for (int i = 0; i < kWidth; ++i) values[p * kWidth + i] = loaded.item[i];
    }
}

__device__ inline void rotate(float (&values)[kLaneChannels], const float (&cos)[kLanePairs],
                              const float (&sin)[kLanePairs]) {
#pragma unroll
    for (int i = 0; i < kLanePairs; ++i) {
        const float even = values[2 * i], odd = values[2 * i + 1];
        values[2 * i] = even * cos[i] - odd * sin[i];
        values[2 * i + 1] = even * sin[i] + odd * cos[i];
    }
}

// Each sum over the lanes of a row, for every lane of it. The whole warp calls it.
template <int kCount>
__device__ inline void add_lanes(float (&sums)[kCount], int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[i] += __shfl_xor_sync(kWholeWarp, sums[i], offset);
}

// ---- Host: preparing a launch ----

struct AngleAccess {
    const float* cos;
    const float* sin;
    std::int64_t cos_pair_stride;
    std::int64_t sin_pair_stride;
    bool vectors;
};

inline int lanes_per_row(std::int64_t channels) {
    int lanes = 1;
    while (lanes * kLaneChannels < channels) lanes *= 2;
    return lanes;
}

inline std::int64_t token_count(const NormRopeSetting& setting) {
    return setting.sizes[kAttBatch] * setting.sizes[kAttView] * setting.sizes[kAttTime] * setting.sizes[kAttToken];
}

inline RowGeometry row_geometry(const NormRopeSetting& setting, int heads_in_flight) {
    const std::int64_t chunks = (setting.sizes[kAttHead] + heads_in_flight - 1) / heads_in_flight;
    const std::int64_t channels = setting.sizes[kAttChannel];
    RowGeometry geometry{};
    geometry.channels = static_cast<int>(channels);
    geometry.lanes = lanes_per_row(channels);
    geometry.items = static_cast<std::uint32_t>(token_count(setting) * chunks);
    geometry.head_chunks = Divisor(chunks);
    geometry.heads = static_cast<int>(setting.sizes[kAttHead]);
    geometry.inverse_channels = 1.0f / static_cast<float>(channels);
    return geometry;
}

inline std::int64_t items_per_block(const RowGeometry& geometry) { return kNormRopeThreads / geometry.lanes; }

template <typename Tensor>
bool is_multiple_of_vectors(const Tensor& tensor, const std::int64_t* sizes, int axes, std::int64_t width,
                            std::size_t bytes) {
    if (reinterpret_cast<std::uintptr_t>(tensor.data) % bytes != 0) return false;
    for (int axis = 0; axis < axes; ++axis)
        if (sizes[axis] > 1 && tensor.strides[axis] % width != 0) return false;
    return true;
}

template <typename T, typename... Tensors>
bool row_vectors_fit(const NormRopeSetting& setting, const Tensors&... tensors) {
    constexpr std::int64_t kWidth = kPackChannels<T>;
    return setting.sizes[kAttChannel] % kWidth == 0 &&
           (is_multiple_of_vectors(tensors, setting.sizes, kAttHead + 1, kWidth, kVectorBytes) && ...);
}

template <typename T>
AngleAccess angle_access(const NormRopeSetting& setting) {
    constexpr std::int64_t kWidth = kPackChannels<T> / 2;
    constexpr std::size_t kBytes = sizeof(float) * kWidth;
    const std::int64_t cos_step = setting.cos.strides[kTokenAxes], sin_step = setting.sin.strides[kTokenAxes];
    const std::int64_t pairs = setting.sizes[kAttChannel] / 2;
    const bool vectors = pairs % kWidth == 0 && (pairs == 1 || (cos_step == 1 && sin_step == 1)) &&
                         is_multiple_of_vectors(setting.cos, setting.sizes, kTokenAxes, kWidth, kBytes) &&
                         is_multiple_of_vectors(setting.sin, setting.sizes, kTokenAxes, kWidth, kBytes);
    return {setting.cos.data, setting.sin.data, cos_step, sin_step, vectors};
}

template <int kOperands>
MergedAxes<kTokenAxes, kOperands> merge_tokens(const NormRopeSetting& setting,
                                               const std::int64_t* const (&strides)[kOperands]) {
    const std::int64_t sizes[kTokenAxes] = {setting.sizes[kAttBatch], setting.sizes[kAttView], setting.sizes[kAttTime],
                                            setting.sizes[kAttToken]};
    return merge_axes<kTokenAxes, kOperands>(sizes, strides);
}

}  // namespace fourreal::cuda

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

#include "fourreal/dtype.hpp"
#include "fourreal/merged_axes.hpp"
#include "fourreal/qk_norm_rope.hpp"
#include "numbers.cuh"
#include "vector_access.cuh"

namespace fourreal::cuda {

constexpr int kNormRopeThreads = 128;  // at some 100 registers a thread, smaller blocks leave fewer of them unused
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
template <typename T, bool kVector>
__device__ inline void load_parameters(const float* parameters, const LaneShare& share,
                                       float (&values)[kLaneChannels]) {
    constexpr int kWidth = kVector ? kPackChannels<float> : 1;
#pragma unroll
    for (int i = 0; i < kLaneChannels; i += kWidth) {
        const int channel = share.first + i / kPackChannels<T> * share.step + i % kPackChannels<T>;
        Pack<float, kWidth> loaded{};
        if (channel < share.channels) loaded = load_pack<float, kWidth>(parameters + channel);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) values[i + j] = loaded.item[j];
    }
}

// Where the angles of a call lie; `vectors`: those of the pairs of a pack lie together, aligned to their size.
struct AngleAccess {
    const void* cos;  // null: no rotation
    const void* sin;
    std::int64_t cos_step;  // from pair to pair
    std::int64_t sin_step;
    DType dtype;
    bool vectors;
};

// cos and sin of a lane's pairs of channels.
struct LaneAngles {
    float cos[kLanePairs];
    float sin[kLanePairs];
};

// One pack's worth of cosines or sines, from the pair `first` of a token's angles.
template <typename Angle, int kWidth>
struct alignas(sizeof(Angle) * kWidth) AnglePack {
    Angle item[kWidth];

    __device__ static AnglePack load(const Angle* angles, std::int64_t step, bool vectors, int first, int pairs) {
        AnglePack pack;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) pack.item[i] = from_float<Angle>(0.0f);
        if (vectors) {
            if (first < pairs) pack = *reinterpret_cast<const AnglePack*>(angles + first);
        } else {
#pragma unroll
            for (int i = 0; i < kWidth; ++i)
                if (first + i < pairs) pack.item[i] = angles[(first + i) * step];
        }
        return pack;
    }
};

template <typename T, typename Angle>
__device__ inline LaneAngles load_angles_as(const AngleAccess& access, std::int64_t cos_offset, std::int64_t sin_offset,
                                            const LaneShare& share) {
    constexpr int kWidth = kPackChannels<T> / 2;
    using Angles = AnglePack<Angle, kWidth>;
    Angles cos[kLanePacks<T>], sin[kLanePacks<T>];
#pragma unroll
    for (int p = 0; p < kLanePacks<T>; ++p) {
        const int first = (share.first + p * share.step) / 2, pairs = share.channels / 2;
        const auto* cosines = static_cast<const Angle*>(access.cos) + cos_offset;
        const auto* sines = static_cast<const Angle*>(access.sin) + sin_offset;
        cos[p] = Angles::load(cosines, access.cos_step, access.vectors, first, pairs);
        sin[p] = Angles::load(sines, access.sin_step, access.vectors, first, pairs);
    }
    LaneAngles angles;
#pragma unroll
    for (int i = 0; i < kLanePairs; ++i) {
        angles.cos[i] = to_float(cos[i / kWidth].item[i % kWidth]);
        angles.sin[i] = to_float(sin[i / kWidth].item[i % kWidth]);
    }
    return angles;
}

template <typename T>
__device__ inline LaneAngles load_angles(const AngleAccess& access, std::int64_t cos_offset, std::int64_t sin_offset,
                                         const LaneShare& share) {
    if (access.dtype == DType::kFloat32) return load_angles_as<T, float>(access, cos_offset, sin_offset, share);
    if (access.dtype == DType::kFloat16) return load_angles_as<T, __half>(access, cos_offset, sin_offset, share);
    return load_angles_as<T, __nv_bfloat16>(access, cos_offset, sin_offset, share);
}

// By the angles, or back by them.
template <bool kBack>
__device__ inline void rotate(float (&values)[kLaneChannels], const LaneAngles& angles) {
#pragma unroll
    for (int i = 0; i < kLanePairs; ++i) {
        const float even = values[2 * i], odd = values[2 * i + 1], cos = angles.cos[i];
        const float sin = kBack ? -angles.sin[i] : angles.sin[i];
        values[2 * i] = even * cos - odd * sin;
        values[2 * i + 1] = even * sin + odd * cos;
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
    const std::uintptr_t weights = reinterpret_cast<std::uintptr_t>(setting.q_weight) |
                                   reinterpret_cast<std::uintptr_t>(setting.k_weight);
    return setting.sizes[kAttChannel] % kWidth == 0 && weights % kVectorBytes == 0 &&
           (is_multiple_of_vectors(tensors, setting.sizes, kAttHead + 1, kWidth, kVectorBytes) && ...);
}

template <typename T>
AngleAccess angle_access(const NormRopeSetting& setting) {
    constexpr std::int64_t kWidth = kPackChannels<T> / 2;
    const auto bytes = static_cast<std::size_t>(kWidth * element_size(setting.angle_dtype));
    const std::int64_t cos_step = setting.cos.strides[kTokenAxes], sin_step = setting.sin.strides[kTokenAxes];
    const bool vectors = setting.sizes[kAttChannel] / 2 % kWidth == 0 && cos_step == 1 && sin_step == 1 &&
                         is_multiple_of_vectors(setting.cos, setting.sizes, kTokenAxes, kWidth, bytes) &&
                         is_multiple_of_vectors(setting.sin, setting.sizes, kTokenAxes, kWidth, bytes);
    return {setting.cos.data, setting.sin.data, cos_step, sin_step, setting.angle_dtype, vectors};
}

template <int kOperands>
MergedAxes<kTokenAxes, kOperands> merge_tokens(const NormRopeSetting& setting,
                                               const std::int64_t* const (&strides)[kOperands]) {
    const std::int64_t sizes[kTokenAxes] = {setting.sizes[kAttBatch], setting.sizes[kAttView], setting.sizes[kAttTime],
                                            setting.sizes[kAttToken]};
    return merge_axes<kTokenAxes, kOperands>(sizes, strides);
}

}  // namespace fourreal::cuda

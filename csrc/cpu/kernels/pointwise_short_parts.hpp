// What the kernels of short sequences share: sizes known at compile time where they are usual, rows of queries.
#pragma once

#include <cstdint>

#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_pairs.hpp"
#include "kernels/pointwise_positions.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

constexpr int kMostGroups = 4;
constexpr int kMostEntries = kMostGroups * kGroupKeys;

// Any number of entries that takes kCount groups, any number of channels.
template <int kCount>
struct AnySizes {
    static constexpr int kGroups = kCount;
    std::int64_t entry_count, channel_count;

    explicit AnySizes(const PointwiseShape& shape) : entry_count(shape.entries), channel_count(shape.channels) {}
    std::int64_t entries() const { return entry_count; }
    std::int64_t channels() const { return channel_count; }
};

// Full groups and a usual number of channels: loops have known lengths, mostly too short for branch prediction.
template <int kCount, int kChannels>
struct FixedSizes {
    static constexpr int kGroups = kCount;

    explicit FixedSizes(const PointwiseShape&) {}
    static constexpr std::int64_t entries() { return kCount * kGroupKeys; }
    static constexpr std::int64_t channels() { return kChannels; }
};

template <int kGroups, typename Body>
FOURREAL_ALWAYS_INLINE bool with_fixed_sizes(const PointwiseShape& shape, const Body& body) {
    if (shape.dtype != DType::kFloat32 || shape.entries != kGroups * kGroupKeys) return false;
    switch (shape.channels) {
        case 40: return body(0.0f, FixedSizes<kGroups, 40>(shape)), true;
        case 64: return body(0.0f, FixedSizes<kGroups, 64>(shape)), true;
        case 128: return body(0.0f, FixedSizes<kGroups, 128>(shape)), true;
        default: return false;
    }
}

// Calls body(T{}, sizes).
template <typename Body>
FOURREAL_ALWAYS_INLINE void with_sizes(const PointwiseShape& shape, const Body& body) {
    constexpr int kEight = groups_of(8);
    if (with_fixed_sizes<kEight>(shape, body)) return;
    with_storage(shape.dtype, [&](auto type) {
        switch (groups_of(shape.entries)) {
            case 1: return body(type, AnySizes<1>(shape));
            case 2: return body(type, AnySizes<2>(shape));
            case 3: return body(type, AnySizes<3>(shape));
            default: return body(type, AnySizes<4>(shape));
        }
    });
}

// Rows of numbers to broadcast: those of the tensor, or a copy in float.
template <typename T, int kMost>
struct QueryRows {
    const float* at[kMost];

    FOURREAL_ALWAYS_INLINE void point_at(const PointwiseInput& tensor, std::int64_t offset, std::int64_t entries,
                                         std::int64_t channels, float* widened) {
        const T* const base = static_cast<const T*>(tensor.data) + offset;
        const std::int64_t stride = (channels + kWidth - 1) / kWidth * kWidth;
        for (std::int64_t e = 0; e < entries; ++e, widened += stride) {
            for (std::int64_t c = 0; c < channels; c += kWidth)
                store(widened + c, load_channels(base + tensor.entries[e], c, channels));
            at[e] = widened;
        }
    }
};
template <int kMost>
struct QueryRows<float, kMost> {
    const float* at[kMost];

    FOURREAL_ALWAYS_INLINE void point_at(const PointwiseInput& tensor, std::int64_t offset, std::int64_t entries,
                                         std::int64_t, float*) {
        const float* const base = static_cast<const float*>(tensor.data) + offset;
        for (std::int64_t e = 0; e < entries; ++e) at[e] = base + tensor.entries[e];
    }
};
inline std::int64_t widened_floats(const PointwiseShape& shape) {
    if (shape.dtype == DType::kFloat32) return 0;
    return shape.entries * ((shape.channels + kWidth - 1) / kWidth * kWidth);
}

template <int kGroups>
FOURREAL_ALWAYS_INLINE void write_log_sums(const PairSoftmax<kGroups>& pair, const PointwiseOutput& lse, std::int64_t offset,
                                           std::int64_t entry, std::int64_t entries) {
    float* const base = static_cast<float*>(lse.data) + offset;
    pair.write_log_sums(base + lse.entries[entry], entry + 1 < entries ? base + lse.entries[entry + 1] : nullptr);
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

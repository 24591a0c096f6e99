// What the kernels of short sequences share: sizes known at compile time where they are usual, rows of queries.
#pragma once

#include <cstdint>

#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_quads.hpp"
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

// Rows of numbers to broadcast: those of the tensor, or a copy in float. The next position's are asked for beside their use,
// those that are copied beside the copy.
template <typename T, int kMost>
struct QueryRows {
    const float* at[kMost];

    FOURREAL_ALWAYS_INLINE void point_at(const PointwiseInput& tensor, std::int64_t offset, std::int64_t entries,
                                         std::int64_t channels, std::int64_t ahead, float* widened) {
        EntryRows<const T, kMost> rows;
        rows.point_at(tensor, offset, entries);
        const std::int64_t stride = (channels + kWidth - 1) / kWidth * kWidth;
        for (std::int64_t e = 0; e < entries; ++e, widened += stride) {
            for (std::int64_t c = 0; c < channels; c += kWidth) {
                store(widened + c, load_channels(rows.at[e], c, channels));
                if (ahead != 0) fetch(rows.at[e] + ahead + c);
            }
            at[e] = widened;
        }
    }
    static std::int64_t ahead_in_use(std::int64_t) { return 0; }
};
template <int kMost>
struct QueryRows<float, kMost> : EntryRows<const float, kMost> {
    FOURREAL_ALWAYS_INLINE void point_at(const PointwiseInput& tensor, std::int64_t offset, std::int64_t entries,
                                         std::int64_t, std::int64_t, float*) {
        EntryRows<const float, kMost>::point_at(tensor, offset, entries);
    }
    static std::int64_t ahead_in_use(std::int64_t ahead) { return ahead; }
};
inline std::int64_t widened_floats(const PointwiseShape& shape) {
    if (shape.dtype == DType::kFloat32) return 0;
    return shape.entries * ((shape.channels + kWidth - 1) / kWidth * kWidth);
}

// The tensors of a forward pass, as its walk numbers them.
enum ForwardTensor { kForwardQ, kForwardK, kForwardV, kForwardOut, kForwardLse, kForwardTensors };
using ForwardOffsets = PositionOffsets<kForwardTensors>;

inline PositionWalk<kForwardTensors> forward_walk(const PointwiseForward& job, std::int64_t first, std::int64_t last) {
    const std::int64_t* const strides[] = {job.q.position_strides, job.k.position_strides, job.v.position_strides,
                                           job.out.position_strides, job.lse.position_strides};
    return {job.shape, strides, first, last};
}

// Products of all entries become probabilities: `hidden_in_row` has a vector for each group of rows, `hidden_in_column`, if
// there are columns, one for each of their groups and pair of entries. `lse_offset` is that of the position.
template <int kInRow, int kInColumn>
FOURREAL_ALWAYS_INLINE void normalise(const PointwiseForward& job, std::int64_t entries, const Scores& scores,
                                      const float* hidden_in_row, const Scores& hidden_in_column,
                                      std::int64_t lse_offset) {
    constexpr int kGroups = kInRow + kInColumn;
    const Vec factor = broadcast(job.shape.scale * kLog2E);
    Vec hidden[kGroups];
    for (int g = 0; g < kInRow; ++g) hidden[g] = load(hidden_in_row + g * kWidth);
    for (std::int64_t e = 0; e < entries; e += 2) {
        Vec x[kGroups];
        for (int g = 0; g < kGroups; ++g) x[g] = load(scores.of(g, e));
        for (int g = kInRow; g < kGroups; ++g) hidden[g] = load(hidden_in_column.of(g - kInRow, e));
        const PairSoftmax<kGroups> pair(x, factor, hidden);
        for (int g = 0; g < kGroups; ++g) store(scores.of(g, e), x[g]);
        if (!job.lse.data) continue;
        float* const lse = static_cast<float*>(job.lse.data) + lse_offset;
        pair.write_log_sums(lse + job.lse.entries[e], e + 1 < entries ? lse + job.lse.entries[e + 1] : nullptr);
    }
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

// The way between tensors and panels. A panel holds kWidth channels of every entry of a bundle: entry e is a block of
// one vector per channel, in which each position has its lane.
#pragma once

#include <cstdint>

#include "kernels/pointwise_ahead.hpp"
#include "kernels/pointwise_bundle.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// A line more than the vectors take: blocks a power of two apart would share few sets of the first-level cache.
constexpr std::int64_t kBlock = std::int64_t{kWidth} * kWidth + kCacheLine / static_cast<std::int64_t>(sizeof(float));

// The channels of a panel: kWidth of them, or those that are left.
struct Channels {
    std::int64_t first;
    int count;

    Channels(std::int64_t first_channel, std::int64_t channels)
        : first(first_channel), count(channels - first < kWidth ? static_cast<int>(channels - first) : kWidth) {}
};

inline std::int64_t panels_of(const PointwiseShape& shape) { return (shape.channels + kWidth - 1) / kWidth; }

template <bool kWhole, typename T>
FOURREAL_ALWAYS_INLINE void load_blocks(const Sequences<const T>& from, std::int64_t entries, const Channels& channels,
                                        float* panel, Ahead& ahead) {
    for (std::int64_t e = 0; e < entries; ++e, panel += kBlock) {
        Vec square[kWidth];
#pragma GCC unroll 16
        for (int lane = 0; lane < kWidth; ++lane) {
            const T* const row = from.row(e, lane) + channels.first;
            square[lane] = kWhole ? load(row) : load_first(row, channels.count);
        }
        transpose(square);
#pragma GCC unroll 16
        for (int c = 0; c < kWidth; ++c) store(panel + c * kWidth, square[c]);
        ahead.step(kLoadWeight);
    }
}

template <typename T>
void load_panel(const Sequences<const T>& from, std::int64_t entries, const Channels& channels, float* panel,
                Ahead& ahead) {
    if (channels.count == kWidth)
        load_blocks<true>(from, entries, channels, panel, ahead);
    else
        load_blocks<false>(from, entries, channels, panel, ahead);
}

enum class Store { kPart, kWhole, kStreamed };

template <Store kStore, typename T>
FOURREAL_ALWAYS_INLINE void store_blocks(const float* panel, const Sequences<T>& to, std::int64_t entries,
                                         int positions, const Channels& channels, Ahead& ahead) {
    for (std::int64_t e = 0; e < entries; ++e, panel += kBlock) {
        Vec square[kWidth];
#pragma GCC unroll 16
        for (int c = 0; c < kWidth; ++c) square[c] = load(panel + c * kWidth);
        transpose(square);
#pragma GCC unroll 16
        for (int lane = 0; lane < kWidth; ++lane) {
            if (lane >= positions) break;
            T* const row = to.row(e, lane) + channels.first;
            if (kStore == Store::kPart) store_first(row, square[lane], channels.count);
            if (kStore == Store::kWhole) store(row, square[lane]);
            if (kStore == Store::kStreamed) stream(row, square[lane]);
        }
        ahead.step(kStoreWeight);
    }
}

// Into the first `positions` positions; past the caches if `streamed`, which takes whole aligned vectors.
template <typename T>
void store_panel(const float* panel, const Sequences<T>& to, std::int64_t entries, int positions,
                 const Channels& channels, bool streamed, Ahead& ahead) {
    if (streamed)
        store_blocks<Store::kStreamed>(panel, to, entries, positions, channels, ahead);
    else if (channels.count == kWidth)
        store_blocks<Store::kWhole>(panel, to, entries, positions, channels, ahead);
    else
        store_blocks<Store::kPart>(panel, to, entries, positions, channels, ahead);
}

// One number per entry and position.
inline void store_numbers(const float* numbers, const Sequences<float>& to, std::int64_t entries, int positions) {
    const bool whole = positions == kWidth && to.side_by_side();
    for (std::int64_t e = 0; e < entries; ++e, numbers += kWidth) {
        if (whole)
            store(to.row(e, 0), load(numbers));
        else
            for (int lane = 0; lane < positions; ++lane) *to.row(e, lane) = numbers[lane];
    }
}

inline void load_numbers(const Sequences<const float>& from, std::int64_t entries, float* numbers) {
    for (std::int64_t e = 0; e < entries; ++e, numbers += kWidth)
        for (int lane = 0; lane < kWidth; ++lane) numbers[lane] = *from.row(e, lane);
}

}  // namespace fourreal::cpu::FOURREAL_SIMD

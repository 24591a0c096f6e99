// Sizes of the panels of single groups.
#pragma once

#include <cstdint>

#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_products.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// Queries beyond this many are handled in chunks, which keeps panels of scores in the first-level cache.
constexpr std::int64_t kChunkLanes = 32;

struct ChunkSizes {
    int group;             // positions side by side
    std::int64_t chunk;    // queries of each position at a time
    std::int64_t lanes;    // of a full chunk
    std::int64_t stride;   // of row panels
    std::int64_t entries;

    explicit ChunkSizes(const PointwiseShape& shape)
        : group(group_for(shape.entries)),
          chunk(shape.entries < kChunkLanes ? shape.entries : kChunkLanes),
          lanes(lanes_for(chunk)),
          stride(whole_vectors(shape.channels)),
          entries(shape.entries) {}

    std::int64_t lanes_for(std::int64_t count) const { return whole_vectors(count * group); }
    std::int64_t count_from(std::int64_t first, std::int64_t total) const {
        return total - first < chunk ? total - first : chunk;
    }
    std::int64_t lane_panel() const { return stride * lanes; }
    std::int64_t row_panel(std::int64_t count) const { return group * count * stride; }
    // Keys of several positions lie in lanes, so that theirs for one channel are neighbours; those of one lie in rows.
    std::int64_t key_panel() const { return group == 1 ? row_panel(entries) : lane_panel(); }

    KeyScores scores_of(const float* keys, const float* query_lanes, std::int64_t query_lane_count,
                        const PointwiseShape& shape, float* scores, Prefetcher* ahead) const {
        const std::int64_t key_step = group == 1 ? stride : group;
        const std::int64_t channel_step = group == 1 ? 1 : lanes;
        return {keys, key_step, channel_step, shape.entries, query_lanes, query_lane_count, shape.channels, scores,
                ahead};
    }
};

}  // namespace fourreal::cpu::FOURREAL_SIMD

// What the kernels of the Hopper attention's backward are given, and how their tiles lie in shared memory.
#pragma once

#include <cstdint>

#include "fourreal/frame_tiles.hpp"
#include "hopper_layout.hpp"
#include "hopper_tensor_map.hpp"

namespace fourreal::cuda {

// Whose gradients a kernel computes. Rows of theirs are resident, those of the others are listed: the pair (A, A') of
// resident tensors and (B, B') of listed ones are, for the queries, (q, grad_out) and (k, v), for the keys (k, v) and
// (q, grad_out).
enum class GradientsOf { kQueries, kKeys };

struct MappedTensor {
    TensorMap map;
    TensorPlanes planes;
};

// The base-2 log-sum-exp of every query and its delta, floats in the order (B, H, V, T, rows of a frame). A number of
// rows after the last frame, as those of a frame that are no tokens, have an infinite log-sum-exp and a delta of 0.
struct QueryStatistics {
    float* lse;
    float* delta;

    static constexpr int kRowsOutside = 128;

    // Of a row of a frame; `row.token` is at least the rows of a frame: of one outside.
    static FOURREAL_HOST_DEVICE std::int64_t offset(const FrameMap& frames, int batch, int head, const FrameRow& row) {
        const FrameShape& shape = frames.shape;
        if (row.token >= frames.rows_of_frame()) return rows(frames);
        const std::int64_t line = (std::int64_t{batch} * shape.heads + head) * shape.views + row.view;
        return (line * shape.times + row.time) * frames.rows_of_frame() + row.token;
    }
    // Those of all frames.
    static FOURREAL_HOST_DEVICE std::int64_t rows(const FrameMap& frames) {
        const FrameShape& shape = frames.shape;
        return std::int64_t{shape.batch} * shape.heads * shape.views * shape.times * frames.rows_of_frame();
    }
};

struct GradientParameters {
    MappedTensor resident[2];
    MappedTensor listed[2];
    MappedTensor gradients[2];  // of the resident tensors in the order of `resident`; of the queries only the first
    QueryStatistics statistics;
    FrameTiles tiles;
    int resident_box;  // rows of a box of resident tensors and of gradients
    int listed_box;
    float scale_log2;  // scale log2(e), greater than 0
    float scale;
};

template <typename T, int kHeadDim_, int kListedRows_, int kStages_, GradientsOf kOf>
struct GradientConfig {
    using Element = T;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kListedRows = kListedRows_;
    static constexpr int kStages = kStages_;
    static constexpr bool kOfKeys = kOf == GradientsOf::kKeys;
    static constexpr int kPanels = kHeadDim / kPanelColumns;
    static constexpr int kConsumers = 2;
    static constexpr int kResidentRows = kConsumers * kWgmmaRows;
    static constexpr int kThreads = (kConsumers + 1) * 128;
    static constexpr int kProducerRegisters = 24;
    static constexpr int kConsumerRegisters = 240;

    static constexpr int kResidentPanelBytes = kResidentRows * kPanelRowBytes;
    static constexpr int kListedPanelBytes = kListedRows * kPanelRowBytes;
    static constexpr int kResidentBytes = kPanels * kResidentPanelBytes;
    static constexpr int kListedBytes = kPanels * kListedPanelBytes;
    // Listed queries bring their statistics: a float with B, another with B'.
    static constexpr int kStatisticsBytes = kOfKeys ? kListedRows * 4 : 0;

    // Offsets in shared memory: A, A', then stages of B, B', then of their statistics.
    static constexpr int kListed = 2 * kResidentBytes;
    static constexpr int kStatistics = kListed + 2 * kStages * kListedBytes;
    static constexpr int kResidentFull = kStatistics + 2 * kStages * kStatisticsBytes;
    static constexpr int kResidentEmpty = kResidentFull + 8 * 2;
    static constexpr int kListedFull = kResidentEmpty + 8;
    static constexpr int kListedEmpty = kListedFull + 8 * 2 * kStages;
    static constexpr int kSharedBytes = kListedEmpty + 8 * kStages + 1024;  // shared_base() rounds up

    static FOURREAL_HOST_DEVICE constexpr int resident(int which) { return which * kResidentBytes; }
    static FOURREAL_HOST_DEVICE constexpr int listed(int which, int stage) {
        return kListed + (2 * stage + which) * kListedBytes;
    }
    static FOURREAL_HOST_DEVICE constexpr int statistics(int which, int stage) {
        return kStatistics + (2 * stage + which) * kStatisticsBytes;
    }
    static FOURREAL_HOST_DEVICE constexpr int resident_full(int which) { return kResidentFull + 8 * which; }
    static FOURREAL_HOST_DEVICE constexpr int listed_full(int which, int stage) {
        return kListedFull + 8 * (2 * stage + which);
    }
    static FOURREAL_HOST_DEVICE constexpr int listed_empty(int stage) { return kListedEmpty + 8 * stage; }

    static_assert(kHeadDim % kPanelColumns == 0 && kListedRows % kWgmmaDepth == 0, "whole panels and whole steps");
    static_assert(kListedPanelBytes % kSwizzleBytes == 0, "panels start where the swizzle does");
    static_assert(kListedRows <= QueryStatistics::kRowsOutside, "statistics of a tile beyond the last frame");
    static_assert(kResidentRows / kBoxUnit <= 32 && kListedRows / kBoxUnit <= 32, "a lane per box");
    static_assert(kSharedBytes <= 232448, "the shared memory of a block on sm_90");
};

}  // namespace fourreal::cuda

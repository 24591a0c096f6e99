// What the Hopper attention kernels do with tiles: copies in boxes, rings, products of rows, masks, results in memory.
#pragma once

#include <cmath>
#include <cstdint>

#include "fourreal/frame_tiles.hpp"
#include "hopper_layout.hpp"
#include "hopper_primitives.cuh"
#include "hopper_tensor_map.hpp"

namespace fourreal::cuda {

// A stage of a ring of barriers and the parity of its current phase.
template <int kStages>
struct RingPosition {
    int stage = 0;
    int parity = 0;

    FOURREAL_DEVICE void advance() {
        if (++stage == kStages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// The named barrier that a consumer warpgroup shares with nobody.
FOURREAL_DEVICE int own_barrier(int warpgroup) { return 1 + warpgroup; }

// One warp: waits until the tile's memory is free and copies the tile, a box per lane. `row` is the lane's first row;
// `more_bytes` that the caller copies besides end at the same barrier.
template <int kPanels, int kPanelBytes>
FOURREAL_DEVICE void load_tile(std::uint32_t target, const TensorMap* map, const TensorPlanes& planes,
                               const FrameTile& tile, const FrameRow& row, int lane, int box_rows, std::uint32_t full,
                               std::uint32_t empty, int empty_parity, int more_bytes = 0) {
    barrier_wait(empty, empty_parity);
    if (lane == 0) barrier_arrive_expecting(full, kPanels * kPanelBytes + more_bytes);
    warp_sync();
    if (lane * box_rows < kPanelBytes / kPanelRowBytes) {
        const int column = tile.head * planes.columns_of_head;
        const int plane = tile.batch * planes.planes_of_batch + tile.head * planes.planes_of_head;
        target += static_cast<std::uint32_t>(lane * box_rows * kPanelRowBytes);
#pragma unroll
        for (int panel = 0; panel < kPanels; ++panel)
            tensor_load(target + panel * kPanelBytes, map, full, column + panel * kPanelColumns, row.token, row.time,
                        row.view, plane);
    }
    warp_sync();
}

// One warp stores the boxes of its warpgroup's 64 rows of the tile in `source`, one per lane.
template <int kPanels, int kPanelBytes>
FOURREAL_DEVICE void store_boxes(const TensorMap* map, const TensorPlanes& planes, const FrameMap& frames,
                                 const FrameTile& tile, std::uint32_t source, int warpgroup, int lane, int box_rows) {
    const int first = lane * box_rows;
    if (first < kWgmmaRows) {
        const int row_of_tile = warpgroup * kWgmmaRows + first;
        const FrameRow row = frames.query_row(tile.group, tile.first_row + row_of_tile);
        if (row.token < frames.shape.tokens) {
            const int column = tile.head * planes.columns_of_head;
            const int plane = tile.batch * planes.planes_of_batch + tile.head * planes.planes_of_head;
#pragma unroll
            for (int panel = 0; panel < kPanels; ++panel)
                tensor_store(map, source + panel * kPanelBytes + row_of_tile * kPanelRowBytes,
                             column + panel * kPanelColumns, row.token, row.time, row.view, plane);
        }
        wait_stores_read();
    }
    warp_sync();
}

// d = a b^T: 64 rows of a by the kRows rows of b, both kHeadDim long, in shared memory. Starts the product.
template <typename T, int kHeadDim, int kRows, int kPanelBytesOfA>
FOURREAL_DEVICE void issue_row_products(float (&d)[kRows / 2], std::uint32_t a_rows, std::uint32_t b_rows) {
    constexpr int kPanelBytesOfB = kRows * kPanelRowBytes;
    const std::uint64_t a = columns_descriptor(a_rows), b = columns_descriptor(b_rows);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kHeadDim / kWgmmaDepth; ++step) {
        const int panel = step / kDepthsOfPanel, offset = step % kDepthsOfPanel * kColumnsStepBytes;
        Wgmma<T, kRows>::shared(d, a + descriptor_step(panel * kPanelBytesOfA + offset),
                                b + descriptor_step(panel * kPanelBytesOfB + offset), step > 0);
    }
    wgmma_commit();
}

// d += weights b: the pairs of 64 x kRows weights in registers by the kRows rows of b in shared memory. Starts it.
template <typename T, int kHeadDim, int kRows>
FOURREAL_DEVICE void issue_weighted_sums(float (&d)[kHeadDim / 2], std::uint32_t (&weights)[kRows / 4],
                                         std::uint32_t b_rows) {
    const std::uint64_t b = rows_descriptor(b_rows, kRows * kPanelRowBytes);
    pin_registers(d);
    pin_registers(weights);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kRows / kWgmmaDepth; ++step)
        Wgmma<T, kHeadDim>::registers(d, weights + 4 * step, b + descriptor_step(step * kRowsStepBytes), 1);
    wgmma_commit();
}

// Scores of keys that are no tokens become -inf: at the end of a frame, or beyond the last frame. `column`: the
// thread's first.
template <int kScores>
FOURREAL_DEVICE void mask_scores(float (&scores)[kScores], const FrameMap& frames, int first_key, int column) {
    const int frame_rows = frames.rows_of_frame();
    int frame = first_key / frame_rows;
    int token = first_key - frame * frame_rows;
#pragma unroll
    for (int unit = 0; unit < kScores / 4; ++unit) {
        const int valid = frame < frames.key_frames() ? frames.shape.tokens - token : 0;
#pragma unroll
        for (int i = 0; i < 2; ++i)
            if (column + i >= valid) scores[4 * unit + i] = scores[4 * unit + 2 + i] = -INFINITY;
        token += kBoxUnit;
        if (token == frame_rows) {
            token = 0;
            ++frame;
        }
    }
}

template <typename T, int kPairs>
FOURREAL_DEVICE void pack_pairs(std::uint32_t (&pairs)[kPairs], const float (&values)[2 * kPairs]) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) pairs[i] = pack_pair<T>(values[2 * i], values[2 * i + 1]);
}

// Writes a thread's results times `factors` into a tile; `row` is the first of its two rows of the tile.
template <typename T, int kValues, int kPanelBytes>
FOURREAL_DEVICE void stage_rows(const float (&values)[kValues], const float (&factors)[2], std::uint32_t target,
                                int row, int lane) {
#pragma unroll
    for (int unit = 0; unit < kValues / 4; ++unit) {
        const int panel = unit / 8, column = unit % 8 * 8 + lane % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float* pair = values + 4 * unit + 2 * half;
            store_shared(target + panel * kPanelBytes + panel_offset(row + 8 * half, column),
                         pack_pair<T>(pair[0] * factors[half], pair[1] * factors[half]));
        }
    }
}

}  // namespace fourreal::cuda

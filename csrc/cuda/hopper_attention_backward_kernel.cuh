// Gradients of the Hopper attention: those of q, or those of k and v, for the tiles of fourreal/frame_tiles.hpp.
//
//   S = A B^T, dP = A' B'^T, P = exp2(scale log2(e) S - lse), dS = P (dP - delta); a sum of dS B, for the keys also of
//   P B'. For the keys S, dP, P and dS stand for their transposes.
//
// A persistent block is a producer warpgroup, of which one warp copies the resident pair (A, A') once per tile and the
// listed pairs (B, B') into a ring of stages, and two consumer warpgroups of 64 resident rows each. A consumer issues S
// of tile i while the sums of tile i - 1 still run, which free their stage as they end, then dP, and computes P during
// it; the sum of P B' runs while dS is computed. The relation of frames is symmetric: the queries of a key are listed
// as the keys of a query. Nothing is added up in memory, every sum has one order.
#pragma once

#include <cstdint>

#include "hopper_attention_backward_config.hpp"
#include "hopper_attention_backward_consumer.cuh"
#include "hopper_primitives.cuh"
#include "hopper_tiles.cuh"

namespace fourreal::cuda {

template <typename Config>
FOURREAL_DEVICE void initialise_gradient_barriers(std::uint32_t shared) {
    for (int which = 0; which < 2; ++which) barrier_init(shared + Config::resident_full(which), 1);
    barrier_init(shared + Config::kResidentEmpty, Config::kConsumers);
    for (int stage = 0; stage < Config::kStages; ++stage) {
        for (int which = 0; which < 2; ++which) barrier_init(shared + Config::listed_full(which, stage), 1);
        // A warp knows of its own products only, so each arrives.
        barrier_init(shared + Config::listed_empty(stage), Config::kConsumers * 4);
    }
    fence_barrier_init();
}

// One warp: a listed tile of B (`which` 0) or B' (1), with the log-sum-exp or delta of its rows if they are queries.
template <typename Config>
FOURREAL_DEVICE void load_listed(const GradientParameters& parameters, const FrameMap& frames, const FrameTile& tile,
                                 const FrameRow& row, std::uint32_t shared, int which, int lane,
                                 const RingPosition<Config::kStages>& ring) {
    const std::uint32_t full = shared + Config::listed_full(which, ring.stage);
    const int box_rows = parameters.listed_box;
    const MappedTensor& tensor = parameters.listed[which];
    load_tile<Config::kPanels, Config::kListedPanelBytes>(
        shared + Config::listed(which, ring.stage), &tensor.map, tensor.planes, tile, row, lane, box_rows, full,
        shared + Config::listed_empty(ring.stage), ring.parity ^ 1, Config::kStatisticsBytes);
    if constexpr (Config::kOfKeys) {
        const float* values = which == 0 ? parameters.statistics.lse : parameters.statistics.delta;
        if (lane * box_rows < Config::kListedRows)
            bulk_load(shared + Config::statistics(which, ring.stage) + lane * box_rows * 4,
                      values + QueryStatistics::offset(frames, tile.batch, tile.head, row), box_rows * 4, full);
        warp_sync();
    }
}

template <typename Config>
FOURREAL_DEVICE void produce_pairs(const GradientParameters& parameters, std::uint32_t shared, int lane) {
    RingPosition<Config::kStages> ring;
    int resident_parity = 0;
    const FrameMap& frames = parameters.tiles.maps[0];
    const int tiles = parameters.tiles.tiles(), listed_rows = frames.key_rows();
    for (int index = block_index(); index < tiles; index += block_count()) {
        const FrameTile tile = parameters.tiles.tile(index);
        const FrameRow row = frames.query_row(tile.group, tile.first_row + lane * parameters.resident_box);
        for (int which = 0; which < 2; ++which) {
            const MappedTensor& tensor = parameters.resident[which];
            load_tile<Config::kPanels, Config::kResidentPanelBytes>(
                shared + Config::resident(which), &tensor.map, tensor.planes, tile, row, lane, parameters.resident_box,
                shared + Config::resident_full(which), shared + Config::kResidentEmpty, resident_parity ^ 1);
        }
        resident_parity ^= 1;
        for (int first = 0; first < listed_rows; first += Config::kListedRows) {
            const FrameRow listed = frames.key_row(tile.group, first + lane * parameters.listed_box);
            for (int which = 0; which < 2; ++which)
                load_listed<Config>(parameters, frames, tile, listed, shared, which, lane, ring);
            ring.advance();
        }
    }
}

// All listed tiles of one resident tile: leaves the consumer with whole sums.
template <typename Config>
FOURREAL_DEVICE void sum_gradients(GradientConsumer<Config>& consumer, const GradientParameters& parameters,
                                   const FrameMap& frames, std::uint32_t shared, int warpgroup, int resident_parity,
                                   RingPosition<Config::kStages>& ring) {
    const std::uint32_t own_rows = shared + warpgroup * (kWgmmaRows * kPanelRowBytes);
    const int listed_rows = frames.key_rows();
    const bool whole_frames = frames.rows_of_frame() == frames.shape.tokens;
    const auto release = [&](int stage) {
        if (thread_index() % 32 == 0) barrier_arrive(shared + Config::listed_empty(stage));
    };
    int last_stage = 0;
    barrier_wait(shared + Config::resident_full(0), resident_parity);
    barrier_wait(shared + Config::resident_full(1), resident_parity);
    for (int first = 0; first < listed_rows; first += Config::kListedRows) {
        const int stage = ring.stage;
        barrier_wait(shared + Config::listed_full(0, stage), ring.parity);
        consumer.issue_scores(own_rows + Config::resident(0), shared + Config::listed(0, stage));
        barrier_wait(shared + Config::listed_full(1, stage), ring.parity);
        // Before the second product takes registers the sums have given back those of their weights.
        wgmma_wait<1>(consumer.sums);
        if (first > 0) release(last_stage);
        consumer.issue_products(own_rows + Config::resident(1), shared + Config::listed(1, stage));
        wgmma_wait<1>(consumer.scores);
        const std::uint32_t columns = shared + thread_index() % 4 * 8;
        if constexpr (!Config::kOfKeys) {
            if (!whole_frames || first + Config::kListedRows > listed_rows)
                mask_scores(consumer.scores, frames, first, thread_index() % 4 * 2);
        }
        consumer.take_probabilities(parameters.scale_log2, columns + Config::statistics(0, stage));
        if constexpr (!Config::kOfKeys) {
            // Asked again, it has long been full: a branch, across which the compiler does not move the exponentials to
            // behind the second product.
            pin_registers(consumer.scores);
            barrier_wait(shared + Config::listed_full(1, stage), ring.parity);
        } else {
            pack_pairs<typename Config::Element>(consumer.probabilities, consumer.scores);
            consumer.issue_value_sums(shared + Config::listed(1, stage));
        }
        wgmma_wait<Config::kOfKeys ? 1 : 0>(consumer.products);
        consumer.take_score_grads(columns + Config::statistics(1, stage));
        pack_pairs<typename Config::Element>(consumer.score_grads, consumer.products);
        consumer.issue_sums(shared + Config::listed(0, stage));
        last_stage = stage;
        ring.advance();
    }
    wgmma_wait<0>(consumer.sums);
    if constexpr (Config::kOfKeys) pin_registers(consumer.value_sums);
    release(last_stage);
}

// Writes a tile's gradients over the resident rows and from there to memory; `thread` counts inside the warpgroup.
template <typename Config>
FOURREAL_DEVICE void store_gradients(const GradientConsumer<Config>& consumer, const GradientParameters& parameters,
                                     const FrameTile& tile, std::uint32_t shared, int warpgroup, int thread) {
    constexpr int kPanelBytes = Config::kResidentPanelBytes;
    const int warp = thread / 32, lane = thread % 32;
    const int row_of_tile = warpgroup * kWgmmaRows + warp * 16 + lane / 4;
    // The other warps' products may still read the resident rows until they come to the barrier.
    named_sync(own_barrier(warpgroup), 128);
    const float scales[2] = {parameters.scale, parameters.scale};
    stage_rows<typename Config::Element, GradientConsumer<Config>::kSums, kPanelBytes>(
        consumer.sums, scales, shared + Config::resident(0), row_of_tile, lane);
    if constexpr (Config::kOfKeys) {
        const float ones[2] = {1.0f, 1.0f};
        stage_rows<typename Config::Element, GradientConsumer<Config>::kSums, kPanelBytes>(
            consumer.value_sums, ones, shared + Config::resident(1), row_of_tile, lane);
    }
    fence_shared_writes();
    named_sync(own_barrier(warpgroup), 128);
    if (warp == 0) {
        for (int which = 0; which < (Config::kOfKeys ? 2 : 1); ++which)
            store_boxes<Config::kPanels, kPanelBytes>(
                &parameters.gradients[which].map, parameters.gradients[which].planes, parameters.tiles.maps[0], tile,
                shared + Config::resident(which), warpgroup, lane, parameters.resident_box);
        if (lane == 0) barrier_arrive(shared + Config::kResidentEmpty);
    }
}

template <typename Config>
FOURREAL_DEVICE void consume_pairs(const GradientParameters& parameters, std::uint32_t shared, int warpgroup) {
    GradientConsumer<Config> consumer;
    RingPosition<Config::kStages> ring;
    int resident_parity = 0;
    const FrameMap& frames = parameters.tiles.maps[0];
    const int tiles = parameters.tiles.tiles();
    for (int index = block_index(); index < tiles; index += block_count()) {
        consumer.start();
        if constexpr (!Config::kOfKeys) {
            const FrameTile tile = parameters.tiles.tile(index);
            const int thread = thread_index() % 128;
            consumer.load_statistics(parameters.statistics, frames, tile,
                                     tile.first_row + warpgroup * kWgmmaRows + thread / 32 * 16 + thread % 32 / 4);
        }
        sum_gradients(consumer, parameters, frames, shared, warpgroup, resident_parity, ring);
        const FrameTile tile = parameters.tiles.tile(recompute(index));
        store_gradients(consumer, parameters, tile, shared, warpgroup, thread_index() % 128);
        resident_parity ^= 1;
    }
}

template <typename Config>
FOURREAL_DEVICE void hopper_attention_gradients(const GradientParameters& parameters) {
    const std::uint32_t shared = shared_base();
    const int warpgroup = uniform(thread_index() / 128);
    if (thread_index() == 0) initialise_gradient_barriers<Config>(shared);
    block_sync();
    if (warpgroup == 0) {
        give_registers<Config::kProducerRegisters>();
        if (thread_index() < 32) produce_pairs<Config>(parameters, shared, thread_index());
    } else {
        take_registers<Config::kConsumerRegisters>();
        consume_pairs<Config>(parameters, shared, warpgroup - 1);
    }
}

}  // namespace fourreal::cuda

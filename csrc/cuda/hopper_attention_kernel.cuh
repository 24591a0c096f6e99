// Attention over whole frames on Hopper: softmax(scale q k^T) v for the tiles of fourreal/frame_tiles.hpp.
//
// A persistent block is a producer warpgroup, of which one warp copies boxes of q, k and v into shared memory (k and v
// in a ring of two stages), and consumer warpgroups of 64 query rows each. A consumer issues q k^T of key tile i, then
// the product with v of tile i - 1, whose probabilities are in registers, and computes the softmax of tile i while that
// product runs. Consumers issue their products in turns, so that one computes its softmax while another multiplies. The
// output replaces q in shared memory and is stored from there in boxes.
#pragma once

#include <cstdint>

#include "hopper_attention_config.hpp"
#include "hopper_attention_consumer.cuh"
#include "hopper_primitives.cuh"
#include "hopper_tiles.cuh"

namespace fourreal::cuda {

// The named barrier at which a consumer warpgroup waits for its turn.
template <typename Config>
FOURREAL_DEVICE int turn_barrier(int warpgroup) {
    return 1 + Config::kConsumers + warpgroup;
}

// The turn goes around: each warpgroup waits for it as often as it passes it on.
template <typename Config>
FOURREAL_DEVICE void wait_for_turn(int warpgroup) {
    named_sync(turn_barrier<Config>(warpgroup), 256);
}
template <typename Config>
FOURREAL_DEVICE void pass_turn(int warpgroup) {
    named_arrive(turn_barrier<Config>(warpgroup + 1 < Config::kConsumers ? warpgroup + 1 : 0), 256);
}

template <typename Config>
FOURREAL_DEVICE void initialise_barriers(std::uint32_t shared) {
    barrier_init(shared + Config::kQueryFull, 1);
    barrier_init(shared + Config::kQueryEmpty, Config::kConsumers);
    for (int stage = 0; stage < Config::kStages; ++stage) {
        barrier_init(shared + Config::kKeyFull + 8 * stage, 1);
        barrier_init(shared + Config::kValueFull + 8 * stage, 1);
        // A warp knows of its own products only, so each arrives.
        barrier_init(shared + Config::kKeyEmpty + 8 * stage, Config::kConsumers * 4);
        barrier_init(shared + Config::kValueEmpty + 8 * stage, Config::kConsumers * 4);
    }
    fence_barrier_init();
}

template <typename Config>
FOURREAL_DEVICE void produce(const HopperParameters& parameters, std::uint32_t shared, int lane) {
    constexpr int kPanels = Config::kPanels;
    RingPosition<Config::kStages> ring;
    int query_parity = 0;
    const int tiles = parameters.tiles.tiles();
    for (int index = block_index(); index < tiles; index += block_count()) {
        const FrameTile tile = parameters.tiles.tile(index);
        const FrameMap& frames = parameters.tiles.maps[tile.stream];
        const HopperStream& stream = parameters.streams[tile.stream];
        const FrameRow query = frames.query_row(tile.group, tile.first_row + lane * parameters.query_box);
        load_tile<kPanels, Config::kQueryPanelBytes>(shared, &stream.q, stream.q_planes, tile, query, lane,
                                                     parameters.query_box, shared + Config::kQueryFull,
                                                     shared + Config::kQueryEmpty, query_parity ^ 1);
        query_parity ^= 1;
        const int key_rows = frames.key_rows();
        for (int first = 0; first < key_rows; first += Config::kKeyRows) {
            const FrameRow key = frames.key_row(tile.group, first + lane * parameters.key_box);
            const std::uint32_t stage = static_cast<std::uint32_t>(ring.stage);
            load_tile<kPanels, Config::kKeyPanelBytes>(shared + Config::kKeys + stage * Config::kKeyBytes, &stream.k,
                                                       stream.k_planes, tile, key, lane, parameters.key_box,
                                                       shared + Config::kKeyFull + 8 * stage,
                                                       shared + Config::kKeyEmpty + 8 * stage, ring.parity ^ 1);
            load_tile<kPanels, Config::kKeyPanelBytes>(shared + Config::kValues + stage * Config::kKeyBytes, &stream.v,
                                                       stream.v_planes, tile, key, lane, parameters.key_box,
                                                       shared + Config::kValueFull + 8 * stage,
                                                       shared + Config::kValueEmpty + 8 * stage, ring.parity ^ 1);
            ring.advance();
        }
    }
}

// `row_of_tile`: the thread's first row; the lanes of a row hold the same numbers, so one of four writes.
template <typename Config>
FOURREAL_DEVICE void store_lse(const Consumer<Config>& consumer, const HopperStream& stream, const FrameMap& frames,
                               const FrameTile& tile, int row_of_tile, float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const FrameRow row = frames.query_row(tile.group, tile.first_row + row_of_tile + 8 * half);
        if (row.token >= frames.shape.tokens) continue;
        constexpr float kNaturalLog2 = 0.693147180559945f;
        const std::int64_t* strides = stream.lse_strides;
        stream.lse[tile.batch * strides[0] + row.view * strides[1] + row.time * strides[2] + row.token * strides[3] +
                   tile.head * strides[4]] =
            (consumer.largest[half] * scale_log2 + log2_precise(consumer.sums[half])) * kNaturalLog2;
    }
}

// All keys of one tile of queries: leaves the consumer with unnormalised outputs and whole sums.
template <typename Config>
FOURREAL_DEVICE void attend(Consumer<Config>& consumer, const HopperParameters& parameters, const FrameMap& frames,
                            std::uint32_t shared, int warpgroup, int query_parity,
                            RingPosition<Config::kStages>& ring) {
    const std::uint32_t own_queries = shared + warpgroup * (kWgmmaRows * kPanelRowBytes);
    const auto keys = [&](int stage) { return shared + Config::kKeys + stage * Config::kKeyBytes; };
    const auto values = [&](int stage) { return shared + Config::kValues + stage * Config::kKeyBytes; };
    const auto release = [&](int barriers, int stage) {
        if (thread_index() % 32 == 0) barrier_arrive(shared + barriers + 8 * stage);
    };
    const int key_rows = frames.key_rows();
    const auto finish_scores = [&](int first) {
        if (frames.rows_of_frame() != frames.shape.tokens || first + Config::kKeyRows > key_rows)
            mask_scores(consumer.scores, frames, first, thread_index() % 4 * 2);
        consumer.softmax(parameters.scale_log2);
    };

    consumer.start();
    barrier_wait(shared + Config::kQueryFull, query_parity);
    barrier_wait(shared + Config::kKeyFull + 8 * ring.stage, ring.parity);
    consumer.issue_scores(own_queries, keys(ring.stage));
    wgmma_wait<0>(consumer.scores);
    release(Config::kKeyEmpty, ring.stage);
    finish_scores(0);
    pack_pairs<typename Config::Element>(consumer.probabilities, consumer.scores);

    for (int first = Config::kKeyRows; first < key_rows; first += Config::kKeyRows) {
        const RingPosition<Config::kStages> last = ring;
        ring.advance();
        barrier_wait(shared + Config::kKeyFull + 8 * ring.stage, ring.parity);
        wait_for_turn<Config>(warpgroup);
        consumer.issue_scores(own_queries, keys(ring.stage));
        barrier_wait(shared + Config::kValueFull + 8 * last.stage, last.parity);
        consumer.issue_outputs(values(last.stage));
        pass_turn<Config>(warpgroup);
        wgmma_wait<1>(consumer.scores);
        release(Config::kKeyEmpty, ring.stage);
        finish_scores(first);
        wgmma_wait<0>(consumer.outputs);
        release(Config::kValueEmpty, last.stage);
        consumer.shrink_outputs();
        pack_pairs<typename Config::Element>(consumer.probabilities, consumer.scores);
    }

    barrier_wait(shared + Config::kValueFull + 8 * ring.stage, ring.parity);
    consumer.issue_outputs(values(ring.stage));
    consumer.finish_sums();
    wgmma_wait<0>(consumer.outputs);
    release(Config::kValueEmpty, ring.stage);
    ring.advance();
}

// Writes a tile's results; `thread` counts inside the warpgroup.
template <typename Config>
FOURREAL_DEVICE void finish_tile(Consumer<Config>& consumer, const HopperParameters& parameters, const FrameTile& tile,
                                 std::uint32_t shared, int warpgroup, int thread) {
    const int warp = thread / 32, lane = thread % 32;
    const int row_of_tile = warpgroup * kWgmmaRows + warp * 16 + lane / 4;
    const FrameMap& frames = parameters.tiles.maps[tile.stream];
    const HopperStream& stream = parameters.streams[tile.stream];
    // The other warps' products may still read q until they come to the barrier.
    named_sync(own_barrier(warpgroup), 128);
    const float factors[2] = {1.0f / consumer.sums[0], 1.0f / consumer.sums[1]};
    stage_rows<typename Config::Element, Consumer<Config>::kOutputs, Config::kQueryPanelBytes>(
        consumer.outputs, factors, shared, row_of_tile, lane);
    fence_shared_writes();
    named_sync(own_barrier(warpgroup), 128);
    if (warp == 0) {
        store_boxes<Config::kPanels, Config::kQueryPanelBytes>(&stream.out, stream.out_planes, frames, tile, shared,
                                                               warpgroup, lane, parameters.query_box);
        if (lane == 0) barrier_arrive(shared + Config::kQueryEmpty);
    }
    if (lane % 4 == 0) store_lse(consumer, stream, frames, tile, row_of_tile, parameters.scale_log2);
}

template <typename Config>
FOURREAL_DEVICE void consume(const HopperParameters& parameters, std::uint32_t shared, int warpgroup) {
    Consumer<Config> consumer;
    RingPosition<Config::kStages> ring;
    int query_parity = 0;
    if (warpgroup + 1 == Config::kConsumers) pass_turn<Config>(warpgroup);  // the first turn is the first warpgroup's
    const int tiles = parameters.tiles.tiles();
    for (int index = block_index(); index < tiles; index += block_count()) {
        const FrameMap& frames = parameters.tiles.maps[parameters.tiles.tile(index).stream];
        attend(consumer, parameters, frames, shared, warpgroup, query_parity, ring);
        const FrameTile tile = parameters.tiles.tile(recompute(index));
        finish_tile(consumer, parameters, tile, shared, warpgroup, thread_index() % 128);
        query_parity ^= 1;
    }
}

template <typename Config>
FOURREAL_DEVICE void hopper_attention(const HopperParameters& parameters) {
    const std::uint32_t shared = shared_base();
    const int warpgroup = uniform(thread_index() / 128);
    if (thread_index() == 0) initialise_barriers<Config>(shared);
    block_sync();
    if (warpgroup == 0) {
        give_registers<Config::kProducerRegisters>();
        if (thread_index() < 32) produce<Config>(parameters, shared, thread_index());
    } else {
        take_registers<Config::kConsumerRegisters>();
        consume<Config>(parameters, shared, warpgroup - 1);
    }
}

}  // namespace fourreal::cuda

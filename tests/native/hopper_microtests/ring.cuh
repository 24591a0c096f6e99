// A ring of mbarriers between warpgroups that have handed over registers.
#pragma once

#include "support.cuh"

namespace hopper_microtests {

using namespace fourreal;
using namespace fourreal::cuda;

constexpr int kTiles = 23, kStages = 2, kTileBytes = 64 * kPanelRowBytes;

struct RingTest {
    TensorMap map;
    std::uint32_t* sums;  // of the words of each tile, by each thread of the two consumer warpgroups
    int box_rows;         // a tile's boxes are copied by as many lanes
};

// A producer warpgroup and two consumer warpgroups, as in the attention kernel: registers are handed over, tiles go
// through two stages, every consumer warp frees a stage.
__global__ void __launch_bounds__(384, 1) ring_kernel(const __grid_constant__ RingTest test) {
#if defined(FOURREAL_HOPPER_BODY)
    const std::uint32_t tiles = shared_base(), full = tiles + kStages * kTileBytes, empty = full + 8 * kStages;
    if (thread_index() == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            barrier_init(full + 8 * stage, 1);
            barrier_init(empty + 8 * stage, 8);
        }
        fence_barrier_init();
    }
    block_sync();
    const int warpgroup = uniform(thread_index() / 128);
    if (warpgroup == 0) {
        give_registers<24>();
        const int lane = thread_index(), first = lane * test.box_rows;
        for (int tile = 0; lane < 32 && tile < kTiles; ++tile) {
            const int stage = tile % kStages, parity = tile / kStages % 2;
            barrier_wait(empty + 8 * stage, parity ^ 1);
            if (lane == 0) barrier_arrive_expecting(full + 8 * stage, kTileBytes);
            warp_sync();
            if (first < 64)
                tensor_load(tiles + stage * kTileBytes + first * kPanelRowBytes, &test.map, full + 8 * stage, 0,
                            tile * 64 + first, 0, 0, 0);
            warp_sync();
        }
    } else {
        take_registers<240>();
        const int thread = thread_index() % 128;
        for (int tile = 0; tile < kTiles; ++tile) {
            const int stage = tile % kStages, parity = tile / kStages % 2;
            barrier_wait(full + 8 * stage, parity);
            std::uint32_t sum = 0;
            for (int offset = thread * 4; offset < kTileBytes; offset += 512)
                sum += load_shared(tiles + stage * kTileBytes + offset);
            test.sums[(tile * 2 + warpgroup - 1) * 128 + thread] = sum;
            warp_sync();
            if (thread % 32 == 0) barrier_arrive(empty + 8 * stage);
        }
        named_sync(warpgroup, 128);
    }
#endif
}

inline Outcome ring_of(int box_rows) {
    std::vector<std::uint16_t> values(kTiles * 64 * kPanelColumns);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i * i % 65521);
    const Buffer<std::uint16_t> source(values);
    const Buffer<std::uint32_t> sums(std::vector<std::uint32_t>(kTiles * 2 * 128, 0xdeadbeef));
    RingTest test{};
    const TensorMapLayout layout{{kPanelColumns, kTiles * 64, 1, 1, 1},
                                 {kPanelColumns, 64, 64, 64},
                                 {kPanelColumns, static_cast<std::uint32_t>(box_rows), 1, 1, 1}};
    require(encode_tensor_map(&test.map, DType::kFloat16, source.data(), layout), "encode_tensor_map");
    test.sums = sums.data();
    test.box_rows = box_rows;
    require(launch_persistent(ring_kernel, 1, 384, kSharedBytes, nullptr, test), "launch");
    std::vector<std::uint32_t> expected(kTiles * 2 * 128, 0);
    for (int tile = 0; tile < kTiles; ++tile)
        for (int row = 0; row < 64; ++row)
            for (int column = 0; column < kPanelColumns; column += 2) {
                const std::uint16_t* pair = &values[(tile * 64 + row) * kPanelColumns + column];
                const std::uint32_t word = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
                const int thread = static_cast<int>(panel_offset(row, column) / 4 % 128);
                for (int consumer = 0; consumer < 2; ++consumer) expected[(tile * 2 + consumer) * 128 + thread] += word;
            }
    Outcome outcome;
    outcome.compare(sums.values(), expected);
    return outcome;
}

}  // namespace hopper_microtests

// What the Hopper attention kernel is given, and how its tiles lie in shared memory.
#pragma once

#include <cstdint>

#include "fourreal/frame_tiles.hpp"
#include "hopper_layout.hpp"
#include "hopper_tensor_map.hpp"

namespace fourreal::cuda {

struct HopperStream {
    TensorMap q, k, v, out;
    TensorPlanes q_planes, k_planes, v_planes, out_planes;
    float* lse;
    std::int64_t lse_strides[5];  // B, V, T, N, H
};

struct HopperParameters {
    HopperStream streams[2];
    FrameTiles tiles;
    int query_box;     // rows of a box of q and out
    int key_box;       // rows of a box of k and v
    float scale_log2;  // scale log2(e), greater than 0
};

template <typename T, int kHeadDim_, int kKeyRows_, int kConsumers_>
struct HopperConfig {
    using Element = T;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kKeyRows = kKeyRows_;
    static constexpr int kConsumers = kConsumers_;
    static constexpr int kStages = 2;
    static constexpr int kPanels = kHeadDim / kPanelColumns;
    static constexpr int kQueryRows = kConsumers * kWgmmaRows;
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // The registers of a multiprocessor divided: setmaxnreg takes multiples of 8.
    static constexpr int kProducerRegisters = kConsumers == 2 ? 24 : 32;
    static constexpr int kConsumerRegisters = kConsumers == 2 ? 240 : 160;

    static constexpr int kQueryPanelBytes = kQueryRows * kPanelRowBytes;
    static constexpr int kKeyPanelBytes = kKeyRows * kPanelRowBytes;
    static constexpr int kQueryBytes = kPanels * kQueryPanelBytes;
    static constexpr int kKeyBytes = kPanels * kKeyPanelBytes;

    // Offsets in shared memory.
    static constexpr int kKeys = kQueryBytes;
    static constexpr int kValues = kKeys + kStages * kKeyBytes;
    static constexpr int kQueryFull = kValues + kStages * kKeyBytes;
    static constexpr int kQueryEmpty = kQueryFull + 8;
    static constexpr int kKeyFull = kQueryEmpty + 8;
    static constexpr int kKeyEmpty = kKeyFull + 8 * kStages;
    static constexpr int kValueFull = kKeyEmpty + 8 * kStages;
    static constexpr int kValueEmpty = kValueFull + 8 * kStages;
    static constexpr int kSharedBytes = kValueEmpty + 8 * kStages + 1024;  // shared_base() rounds up

    static_assert(kHeadDim % kPanelColumns == 0 && kKeyRows % kWgmmaDepth == 0, "whole panels and whole steps");
    static_assert(kQueryRows / kBoxUnit <= 32 && kKeyRows / kBoxUnit <= 32, "a lane per box");
    static_assert(kSharedBytes <= 232448, "the shared memory of a block on sm_90");
};

}  // namespace fourreal::cuda

// Of every query its log-sum-exp in base 2 and delta = sum(out * grad_out) - grad_lse, for the Hopper attention's
// backward: out and grad_out read once by 16 bytes, a few lanes for a row.
#pragma once

#include <cmath>
#include <cstdint>

#include "hopper_attention_backward_config.hpp"
#include "hopper_primitives.cuh"

namespace fourreal::cuda {

struct StatisticsParameters {
    FrameMap frames;
    QueryStatistics statistics;
    const void* out;
    const void* grad_out;
    const float* lse;
    const float* grad_lse;  // null: none
    std::int64_t out_strides[5], grad_out_strides[5], lse_strides[5], grad_lse_strides[5];  // B, V, T, N, H
};

struct GridRow {
    int batch, head;
    FrameRow row;

    FOURREAL_DEVICE std::int64_t offset(const std::int64_t (&strides)[5]) const {
        return batch * strides[0] + row.view * strides[1] + row.time * strides[2] + row.token * strides[3] +
               head * strides[4];
    }
};

// Row `index` of all frames' rows, heads innermost, as activations usually lie. Rows are counted in 31 bits.
FOURREAL_DEVICE GridRow statistics_row(const FrameMap& frames, int index) {
    const FrameShape& shape = frames.shape;
    const auto take = [&index](int size) {
        const int whole = index / size, part = index - whole * size;
        index = whole;
        return part;
    };
    GridRow result;
    result.head = take(shape.heads);
    result.row.token = take(frames.rows_of_frame());
    result.row.time = take(shape.times);
    result.row.view = take(shape.views);
    result.batch = index;
    return result;
}

constexpr int kStatisticsThreads = 256;

template <typename T, int kHeadDim>
FOURREAL_DEVICE void write_statistics(const StatisticsParameters& parameters) {
    constexpr int kColumns = 8, kLanes = kHeadDim / kColumns, kRows = kStatisticsThreads / kLanes;
    const FrameMap& frames = parameters.frames;
    const int rows = static_cast<int>(QueryStatistics::rows(frames)), all = rows + QueryStatistics::kRowsOutside;
    const int lane = thread_index() % kLanes;
    // Whole blocks of rows, so that all lanes of a warp meet.
    for (int first = block_index() * kRows; first < all; first += block_count() * kRows) {
        const int index = first + thread_index() / kLanes;
        const GridRow place = statistics_row(frames, index < rows ? index : 0);
        const bool exists = index < rows && place.row.token < frames.shape.tokens;
        float sum = 0.0f;
        if (exists) {
            std::uint32_t out[4], grad[4];
            load_words(out, static_cast<const T*>(parameters.out) + place.offset(parameters.out_strides) +
                                lane * kColumns);
            load_words(grad, static_cast<const T*>(parameters.grad_out) + place.offset(parameters.grad_out_strides) +
                                 lane * kColumns);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float a[2], b[2];
                unpack_pair<T>(a, out[i]);
                unpack_pair<T>(b, grad[i]);
                sum = fmaf(a[1], b[1], fmaf(a[0], b[0], sum));
            }
        }
#pragma unroll
        for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) sum += shuffle_xor(sum, lanes);
        if (lane != 0 || index >= all) continue;
        constexpr float kLog2OfE = 1.4426950408889634f;
        const std::int64_t at =
            index < rows ? QueryStatistics::offset(frames, place.batch, place.head, place.row) : index;
        if (exists && parameters.grad_lse) sum -= parameters.grad_lse[place.offset(parameters.grad_lse_strides)];
        parameters.statistics.lse[at] =
            exists ? parameters.lse[place.offset(parameters.lse_strides)] * kLog2OfE : INFINITY;
        parameters.statistics.delta[at] = exists ? sum : 0.0f;
    }
}

}  // namespace fourreal::cuda

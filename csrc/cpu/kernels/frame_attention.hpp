// Attention over runs of packed keys, queries in lanes: scores S^T = K Q^T and outputs O^T = V^T P^T are computed by the same
// register tiles with 16 (AVX-512) queries per vector, so that the softmax needs no shuffles. K and V are packed as float
// rows; only Q and O are transposed.
#pragma once

#include <cstdint>

#include "fourreal/dtype.hpp"
#include "simd/dispatch.hpp"

namespace fourreal::cpu {

// Rows of K and V are padded with zeros to a multiple of this many channels, the rows of a register tile.
constexpr std::int64_t kChannelPadding = 8;
// Keys whose scores are held at a time: their tile of scores stays in the first-level cache.
constexpr std::int64_t kKeyBlock = 96;
// The widest panel, in vectors, and the most queries of one.
constexpr int kPanelVectors = 3;
constexpr std::int64_t kLargestVector = 16;
constexpr std::int64_t kPanelQueries = kPanelVectors * kLargestVector;

constexpr std::int64_t padded_channels(std::int64_t channels) {
    return (channels + kChannelPadding - 1) / kChannelPadding * kChannelPadding;
}

// `count` neighbouring rows of a tensor.
struct Rows {
    DType dtype;
    const void* first;
    std::int64_t stride;  // in elements
    std::int64_t count;
    std::int64_t channels;
};

// Keys first .. first + count - 1 of the packed rows.
struct KeyRun {
    std::int64_t first;
    std::int64_t count;
};

// Where queries stand after some of their keys; see PartialOutputs. The offsets are those of query i, in floats.
struct PartialGroup {
    float* values;
    const std::int64_t* value_offsets;
    float* state;
    const std::int64_t* state_offsets;
    bool resumes;   // the group goes on from there
    bool suspends;  // and stops there again, without results
};

// Queries that attend to the same keys. Query i starts query_offsets[i] elements after `queries`, and so on.
struct QueryGroup {
    DType dtype;
    std::int64_t channels;
    float scale;
    std::int64_t count;
    const void* queries;
    const std::int64_t* query_offsets;
    void* out;
    const std::int64_t* out_offsets;
    float* lse;  // null: not wanted
    const std::int64_t* lse_offsets;
    const float* keys;  // rows of padded_channels(channels)
    const float* values;
    const KeyRun* runs;
    std::int64_t run_count;
    PartialGroup partial;
    const Rows* ahead;  // rows to fetch into the second-level cache meanwhile
    std::int64_t ahead_count;
};

// Floats of scratch that a group of `queries` needs.
constexpr std::int64_t query_group_scratch(std::int64_t queries, std::int64_t channels) {
    const std::int64_t lanes = queries + kPanelQueries;
    return lanes * (2 * padded_channels(channels) + 2) + kKeyBlock * kPanelQueries;
}

}  // namespace fourreal::cpu

// Converts rows to float and pads their channels with zeros.
FOURREAL_DECLARE_KERNEL(void, pack_rows, (const ::fourreal::cpu::Rows& rows, float* packed))
// Writes out and lse of every query of the group, or where it stands. `scratch` is aligned to 64 bytes.
FOURREAL_DECLARE_KERNEL(void, attend_group, (const ::fourreal::cpu::QueryGroup& group, float* scratch))

// Gradients of attention over runs of packed keys. As in the forward, probabilities and their gradients are held transposed,
// one query per lane, for one block of keys and one panel of queries at a time.
#pragma once

#include <cstdint>

#include "kernels/frame_attention.hpp"

namespace fourreal::cpu {

// Rows that are read or accumulated by whole vectors are padded to this many channels.
constexpr std::int64_t vector_padded_channels(std::int64_t channels) {
    return (channels + kLargestVector - 1) / kLargestVector * kLargestVector;
}

// Queries that attend to the same keys. The offsets are those of query i in each tensor.
struct GradientGroup {
    DType dtype;
    std::int64_t channels;
    float scale;
    std::int64_t count;
    const void* queries;
    const std::int64_t* query_offsets;
    const void* out;
    const std::int64_t* out_offsets;
    const void* grad_out;
    const std::int64_t* grad_out_offsets;
    const float* lse;
    const std::int64_t* lse_offsets;
    const float* grad_lse;  // may be null
    const std::int64_t* grad_lse_offsets;
    DType dq_dtype;
    void* dq;
    const std::int64_t* dq_offsets;
    const float* earlier_dq;  // added to dq, which it may be; may be null
    const std::int64_t* earlier_dq_offsets;
    const float* keys;  // rows of padded_channels(channels)
    const float* values;
    float* dk;  // rows of vector_padded_channels(channels), added to
    float* dv;
    const KeyRun* runs;
    std::int64_t run_count;
};

// Floats of scratch that a group of `queries` needs.
constexpr std::int64_t gradient_group_scratch(std::int64_t queries, std::int64_t channels) {
    const std::int64_t lanes = queries + kPanelQueries;
    return lanes * (3 * padded_channels(channels) + 2 * vector_padded_channels(channels) + 3) + 2 * kKeyBlock * kPanelQueries;
}

}  // namespace fourreal::cpu

// Writes dq of every query of the group and adds to dk and dv. `scratch` is aligned to 64 bytes.
FOURREAL_DECLARE_KERNEL(void, differentiate_group, (const ::fourreal::cpu::GradientGroup& group, float* scratch))
// Writes accumulated rows of vector_padded_channels(channels) into a tensor; `rows.first` is written. Adds the rows of floats
// `earlier`, which may be those written, if they are not null.
FOURREAL_DECLARE_KERNEL(void, unpack_rows,
                        (const float* accumulated, const ::fourreal::cpu::Rows& rows, const float* earlier,
                         std::int64_t earlier_stride))
// to += from
FOURREAL_DECLARE_KERNEL(void, add_floats, (const float* from, float* to, std::int64_t count))

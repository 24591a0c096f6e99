// QK-norm and rotary embedding of a run of tokens: all heads of q and k, one token after the other.
#pragma once

#include <cstdint>

#include "fourreal/dtype.hpp"
#include "simd/dispatch.hpp"

namespace fourreal::cpu {

constexpr int kQueryAndKey = 2;

// The heads of consecutive tokens: rows of D channels, strides in elements.
template <typename Pointer>
struct HeadRows {
    Pointer data;
    std::int64_t token_stride;
    std::int64_t head_stride;
};

struct AngleRows {
    const float* data;
    std::int64_t token_stride;
    std::int64_t pair_stride;
};

// Weights are null without a normalisation, cos and sin without a rotation.
struct NormRopeRun {
    DType dtype;
    std::int64_t tokens, heads, channels;
    const float* weights[kQueryAndKey];
    AngleRows cos, sin;
    float eps;
    float* tables;  // kTables of table_stride floats each, aligned to a cache line
    std::int64_t table_stride;  // channels rounded up to kTableRounding
};

struct NormRopeForwardRun : NormRopeRun {
    HeadRows<const void*> in[kQueryAndKey];
    HeadRows<void*> out[kQueryAndKey];
};

struct NormRopeBackwardRun : NormRopeRun {
    HeadRows<const void*> grad[kQueryAndKey];
    HeadRows<const void*> in[kQueryAndKey];
    HeadRows<void*> out[kQueryAndKey];
    double* weight_grads[kQueryAndKey];  // D each; the run's share is added
};

// cos and sin of a token, one value per channel, and sums of the gradients of both weights.
constexpr int kTables = 4;
// A table's length is rounded up to this: a kernel fills it in steps of two vectors.
constexpr std::int64_t kTableRounding = 32;

}  // namespace fourreal::cpu

FOURREAL_DECLARE_KERNEL(void, norm_rope_forward_run, (const NormRopeForwardRun& run))
FOURREAL_DECLARE_KERNEL(void, norm_rope_backward_run, (const NormRopeBackwardRun& run))

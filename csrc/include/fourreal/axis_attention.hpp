// Attention along the axes of a grid of frames.
//
//   out[q] = sum over k of softmax(scale * q . k) * v,  lse[q] = log sum over k of exp(scale * q . k)
//
// over the keys k that the axes give to a query: the tokens of its batch entry and head that agree with it on every axis that
// is not in a group, for one group or for the union of two groups (each key once). Extra tokens are keys of all queries.
#pragma once

#include <cstdint>

#include "fourreal/dtype.hpp"
#include "fourreal/instruction_set.hpp"

namespace fourreal {

// Axes of an attention input (B, V, T, N, H, D).
enum AttentionAxis : int { kAttBatch = 0, kAttView = 1, kAttTime = 2, kAttToken = 3, kAttHead = 4, kAttChannel = 5 };
constexpr int kAttentionAxes = 6;

// A set of the axes view, time and token.
struct AxisGroup {
    bool view = false;
    bool time = false;
    bool token = false;

    bool operator==(const AxisGroup& other) const {
        return view == other.view && time == other.time && token == other.token;
    }
};

// One group, or the union of two; neither group contains the other.
struct AttentionAxes {
    AxisGroup groups[2];
    int count = 1;
};

// A tensor (B, V, T, N, H, D): strides in elements of B, V, T, N, H; the stride of D is 1. Strides of inputs may be 0.
template <typename Pointer>
struct AttentionTensor {
    Pointer data = nullptr;
    std::int64_t strides[kAttentionAxes - 1] = {};
};
using AttentionInput = AttentionTensor<const void*>;
using AttentionOutput = AttentionTensor<void*>;

// Tokens outside the grid to which every token of their batch entry and head attends as well: a tensor (B, L, H, D), strides
// in elements of B, L, H; the stride of D is 1.
enum ExtraAxis : int { kExtraBatch = 0, kExtraToken = 1, kExtraHead = 2 };
template <typename Pointer>
struct ExtraTensor {
    Pointer data = nullptr;
    std::int64_t strides[3] = {};
};
using ExtraInput = ExtraTensor<const void*>;
using ExtraOutput = ExtraTensor<void*>;

struct AttentionShape {
    std::int64_t sizes[kAttentionAxes];  // B, V, T, N, H, D, each at least 1
    DType dtype;                         // of q, k, v, out and their gradients; float64 is not supported
    AttentionAxes axes;
    float scale;
    std::int64_t extra_tokens = 0;       // L
};

// `lse` is (B, V, T, N, H) float32 with its own strides, or has no data: it is not wanted (the Hopper kernel always writes
// it). `out` and `lse` overlap nothing.
struct AttentionForward {
    AttentionShape shape;
    AttentionInput q, k, v;
    AttentionOutput out, lse;
    ExtraInput extra_k, extra_v;
};

// With P the probabilities and dP = grad_out v^T: dS = P * (dP - sum(grad_out * out) + grad_lse), dq = scale dS k,
// dk = scale dS^T q, dv = P^T grad_out. `grad_lse` (float32, as lse) may have no data: zero.
struct AttentionBackward {
    AttentionShape shape;
    AttentionInput grad_out, grad_lse, q, k, v, out, lse;
    AttentionOutput dq, dk, dv;
    ExtraInput extra_k, extra_v;
    ExtraOutput extra_dk, extra_dv;
};

namespace cpu {

// Why the axes or the shape are not supported, or nullptr. Supported: every single group, "vn|tn" and "v|t"; D up to 256;
// extra tokens where every group has the token axis, or N is 1.
const char* axis_attention_refusal(const AttentionShape& shape);

// Threads follow OpenMP. Results have the same bits for any thread count. Return false if memory for scratch is missing:
// then nothing, or part of the outputs, has been written.
bool axis_attention_forward(const AttentionForward& args, InstructionSet set = best_instruction_set());
// Two calls in one parallel region.
bool axis_attention_forward_pair(const AttentionForward& first, const AttentionForward& second,
                                 InstructionSet set = best_instruction_set());
bool axis_attention_backward(const AttentionBackward& args, InstructionSet set = best_instruction_set());

}  // namespace cpu

}  // namespace fourreal

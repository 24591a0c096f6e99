// RMS normalisation of queries and keys over the head dim, then rotary embedding of their pairs of channels.
//
//   y = x / sqrt(mean(x^2) + eps) * weight,   (a, b) = (y[2i], y[2i + 1])  ->  (a cos_i - b sin_i, a sin_i + b cos_i)
//
// with the same angles for every head of a token.
#pragma once

#include <cstdint>

#include "fourreal/axis_attention.hpp"
#include "fourreal/dtype.hpp"
#include "fourreal/instruction_set.hpp"

namespace fourreal {

// (B, V, T, N, D/2): strides in elements of B, V, T, N and of the pair, each free and possibly 0.
struct AngleTensor {
    const void* data = nullptr;
    std::int64_t strides[kAttentionAxes - 1] = {};
};

// What forward and backward share. The weights (D) are contiguous; both null: no normalisation. cos and sin without
// data: no rotation, which an odd D needs.
struct NormRopeSetting {
    std::int64_t sizes[kAttentionAxes];  // B, V, T, N, H, D
    DType dtype;                         // of q, k, the results and their gradients; float64 is not supported
    const float* q_weight;
    const float* k_weight;
    AngleTensor cos, sin;
    DType angle_dtype;                   // float32; on CUDA float16 and bfloat16 too
    float eps;
};

// An output may be exactly its input (same pointer and strides); other overlaps are undefined.
struct NormRopeForward {
    NormRopeSetting setting;
    AttentionInput q, k;
    AttentionOutput out_q, out_k;
};

// The gradients of the inputs from those of the results. dq_weight and dk_weight (D) are null without a normalisation.
struct NormRopeBackward {
    NormRopeSetting setting;
    AttentionInput grad_q, grad_k, q, k;
    AttentionOutput dq, dk;
    float* dq_weight;
    float* dk_weight;
};

namespace cpu {

// Threads follow OpenMP. Results have the same bits for any thread count, in place or not. Scratch is a few rows of D
// per thread and, for the gradients of the weights, at most 1024 rows of D doubles; std::bad_alloc if that is missing.
void qk_norm_rope_forward(const NormRopeForward& args, InstructionSet set = best_instruction_set());
void qk_norm_rope_backward(const NormRopeBackward& args, InstructionSet set = best_instruction_set());

}  // namespace cpu

namespace cuda {

// Why the kernels do not take the shape or dtype, or nullptr. Taken: D up to 256, fewer than 2^31 rows of D.
const char* qk_norm_rope_refusal(const NormRopeSetting& setting);

// How many rows of 2 D floats of scratch the backward needs to add up the gradients of the weights.
std::int64_t qk_norm_rope_backward_partials(const NormRopeSetting& setting);

// Pointers are to device memory. Asynchronous on `stream`, a cudaStream_t of the current device; return a cudaError_t.
// Results have the same bits for any strides and any device, in place or not. `partials` is not used without weights.
int qk_norm_rope_forward(const NormRopeForward& args, void* stream);
int qk_norm_rope_backward(const NormRopeBackward& args, float* partials, void* stream);

}  // namespace cuda

}  // namespace fourreal

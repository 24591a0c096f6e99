// Attention over whole frames ("vn", "tn", "vn|tn") by the Hopper kernels (sm_90a).
#pragma once

#include <cstdint>

#include "fourreal/axis_attention.hpp"

namespace fourreal::cuda {

// Why the kernel does not take the call, or nullptr. It takes float16 and bfloat16, D = 64 and 128, any B, V, T, N and
// H, scales of at least 0, and tensors that a tensor map describes: 16-byte aligned data and strides, no stride of 0,
// and heads that lie side by side (stride D), or one batch entry, or batch entries that are a whole number of heads
// apart.
const char* hopper_attention_refusal(const AttentionForward& args);

// Writes out and lse of one attention, or of two (`second` not null) of equal sizes, dtype and scale in one launch.
// Asynchronous on `stream`, a cudaStream_t of the current device. Returns a CUDA error number, 0 for success; not to be
// called with what the function above refuses.
int hopper_attention_forward(const AttentionForward& first, const AttentionForward* second, void* stream);

// The same for the backward: q, k, v, out, grad_out and the gradients are tensors of the above kind.
const char* hopper_attention_backward_refusal(const AttentionBackward& args);

// Floats of scratch memory that a backward of this shape needs, which is not refused; its alignment is 16 bytes.
std::int64_t hopper_attention_backward_floats(const AttentionShape& shape);

// Writes dq, dk and dv, each by sums of a fixed order. Launches as the forward.
int hopper_attention_backward(const AttentionBackward& args, float* scratch, void* stream);

}  // namespace fourreal::cuda

// Attention along "v", "t", "vt" and "v|t" by CUDA kernels. See axis_attention.hpp for what is computed.
#pragma once

#include <cstdint>

#include "fourreal/axis_attention.hpp"

namespace fourreal::cuda {

// Why these kernels do not take the dtype, axes or head dim, or nullptr.
const char* pointwise_attention_refusal(const AttentionShape& shape);

// float32, float16 and bfloat16. `lse` may have no data: it is not written then. `shared_bytes` is the most shared
// memory that a block of the device may have (cudaDevAttrMaxSharedMemoryPerBlockOptin); sequences whose rows do not fit
// go to a kernel that reads them from global memory, again for each query. Asynchronous on `stream`, a cudaStream_t of
// the current device; nothing is allocated. Return a cudaError_t.
int pointwise_attention_forward(const AttentionForward& args, std::int64_t shared_bytes, void* stream);

// `out` and `lse` are read only for the sequences that do not fit.
int pointwise_attention_backward(const AttentionBackward& args, std::int64_t shared_bytes, void* stream);

}  // namespace fourreal::cuda

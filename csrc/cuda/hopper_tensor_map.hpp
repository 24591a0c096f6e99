// Tensor maps: how the copy engine of Hopper finds boxes of a 5-D tensor. 16-bit elements, boxes swizzled by 128 bytes.
#pragma once

#include <cstdint>

#include "fourreal/dtype.hpp"

namespace fourreal::cuda {

constexpr int kMapDims = 5;

// What the driver encodes; kernels take it by its address among their parameters.
struct alignas(128) TensorMap {
    std::uint64_t words[16];
};

// Where a (batch entry, head) lies in a tensor map of dims (columns, N, T, V, planes): heads side by side in the
// columns, or planes for every (batch entry, head).
struct TensorPlanes {
    int columns_of_head;
    int planes_of_batch;
    int planes_of_head;
};

// Dim 0 is the innermost, its stride is 1 element; `strides` are those of dims 1 to 4, in elements.
struct TensorMapLayout {
    std::uint64_t sizes[kMapDims];
    std::uint64_t strides[kMapDims - 1];
    std::uint32_t box[kMapDims];
};

// Returns a CUDA error number, 0 for success. Host only, no allocation, legal while a graph is captured.
int encode_tensor_map(TensorMap* map, DType dtype, const void* data, const TensorMapLayout& layout);

}  // namespace fourreal::cuda

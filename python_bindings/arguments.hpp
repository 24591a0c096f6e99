// Conversion of the Python arguments (addresses, lists of sizes and strides, dtype names) into the C++ API, with checks.
// std::invalid_argument becomes ValueError.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fourreal/sync_exchange.hpp"
#include "tensors.hpp"

namespace fourreal::bindings {

inline GridExtents grid_extents(const char* name, const Integers& values) {
    if (values.size() != kAxes)
        throw std::invalid_argument(std::string(name) + ": expected 5 integers (batch, view, time, token, channel), got " +
                                    std::to_string(values.size()));
    GridExtents extents;
    for (int axis = 0; axis < kAxes; ++axis) {
        if (values[axis] < 0)
            throw std::invalid_argument(std::string(name) + ": expected no negative number, got " +
                                        std::to_string(values[axis]) + " for the " + kAxisNames[axis] + " axis");
        extents[axis] = values[axis];
    }
    return extents;
}

enum class Use { kRead, kWrite };

inline GridStrides tensor_strides(const char* name, const Integers& values, const GridSizes& sizes, Use use) {
    const GridStrides strides = grid_extents(name, values);
    if (sizes[kChannel] > 1 && strides[kChannel] != 1)
        throw std::invalid_argument(std::string(name) + ": expected stride 1 for the channel axis, got " +
                                    std::to_string(strides[kChannel]) + "; pass a tensor with a contiguous last dimension");
    for (int axis = 0; use == Use::kWrite && axis < kAxes; ++axis)
        if (sizes[axis] > 1 && strides[axis] == 0)
            throw std::invalid_argument(std::string(name) + ": expected a stride > 0 for the " + kAxisNames[axis] +
                                        " axis of an output, got 0 (an expanded tensor cannot be written)");
    return strides;
}

inline DType dtype_argument(const std::string& name) {
    DType dtype;
    if (!parse_dtype(name, &dtype))
        throw std::invalid_argument("dtype: expected 'float32', 'float64', 'float16' or 'bfloat16', got '" + name + "'");
    return dtype;
}

inline void require_address(const char* name, Address address, const GridSizes& sizes) {
    if (address == 0 && element_count(sizes) != 0)
        throw std::invalid_argument(std::string(name) + ": expected the address of a tensor, got 0");
}

using Tensor = TensorArgument;

inline StreamTensor stream_tensor(const char* name, const Tensor& given, const GridSizes& sizes, Use use) {
    require_address(name, given.first, sizes);
    return {reinterpret_cast<void*>(given.first), tensor_strides(name, given.second, sizes, use)};
}

inline const void* parameter(Address address) { return reinterpret_cast<const void*>(address); }

inline const void* required_parameter(const char* name, Address address, const GridSizes& sizes) {
    require_address(name, address, sizes);
    return parameter(address);
}

inline ExchangeKind exchange_kind_argument(const std::string& kind) {
    if (kind == "hard") return ExchangeKind::kHard;
    if (kind == "soft") return ExchangeKind::kSoft;
    throw std::invalid_argument("kind: expected 'hard' or 'soft', got '" + kind + "'");
}

inline FinishKind finish_kind_argument(const std::string& kind) {
    if (kind == "hard") return FinishKind::kHard;
    if (kind == "soft") return FinishKind::kSoft;
    if (kind == "split") return FinishKind::kSplit;
    throw std::invalid_argument("kind: expected 'hard', 'soft' or 'split', got '" + kind + "'");
}

}  // namespace fourreal::bindings

// Conversion of the Python arguments (addresses, lists of sizes and strides, dtype names) into the C++ API, with checks.
// std::invalid_argument becomes ValueError.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "fourreal/sync_exchange.hpp"

namespace fourreal::bindings {

using Address = std::uintptr_t;
using Integers = std::vector<std::int64_t>;

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

inline HardChannelExchange hard_channel_exchange(Address view, Address time, Address out_view, Address out_time,
                                                 const std::string& dtype, const Integers& sizes,
                                                 const Integers& view_strides, const Integers& time_strides,
                                                 const Integers& out_view_strides, const Integers& out_time_strides,
                                                 Address weight, Address bias, Address input_scale, Address gate) {
    HardChannelExchange args{};
    args.dtype = dtype_argument(dtype);
    args.sizes = grid_extents("sizes", sizes);
    args.view_strides = tensor_strides("view_strides", view_strides, args.sizes, Use::kRead);
    args.time_strides = tensor_strides("time_strides", time_strides, args.sizes, Use::kRead);
    args.out_view_strides = tensor_strides("out_view_strides", out_view_strides, args.sizes, Use::kWrite);
    args.out_time_strides = tensor_strides("out_time_strides", out_time_strides, args.sizes, Use::kWrite);
    require_address("view_ptr", view, args.sizes);
    require_address("time_ptr", time, args.sizes);
    require_address("out_view_ptr", out_view, args.sizes);
    require_address("out_time_ptr", out_time, args.sizes);
    require_address("weight_ptr", weight, args.sizes);
    args.view = reinterpret_cast<const void*>(view);
    args.time = reinterpret_cast<const void*>(time);
    args.out_view = reinterpret_cast<void*>(out_view);
    args.out_time = reinterpret_cast<void*>(out_time);
    args.weight = reinterpret_cast<const void*>(weight);
    args.bias = reinterpret_cast<const void*>(bias);
    args.input_scale = reinterpret_cast<const void*>(input_scale);
    args.gate = reinterpret_cast<const void*>(gate);
    return args;
}

}  // namespace fourreal::bindings

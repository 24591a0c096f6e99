// Conversion of the Python arguments of attention calls into the C++ API, with checks, for the CPU and the CUDA module.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "fourreal/axis_attention.hpp"

namespace fourreal::bindings {

// Address and strides in elements: 6 of an attention input (the last one 1), 5 of a log-sum-exp.
using AttentionArgument = TensorArgument;

inline AxisGroup axis_group(const std::string& letters) {
    AxisGroup group;
    for (char letter : letters) {
        if (letter != 'v' && letter != 't' && letter != 'n')
            throw std::invalid_argument("axes: expected letters of 'v', 't', 'n', got '" + letters + "'");
        (letter == 'v' ? group.view : letter == 't' ? group.time : group.token) = true;
    }
    return group;
}

inline AttentionAxes attention_axes(const std::string& axes) {
    const std::size_t bar = axes.find('|');
    if (bar == std::string::npos) return {{axis_group(axes), {}}, 1};
    return {{axis_group(axes.substr(0, bar)), axis_group(axes.substr(bar + 1))}, 2};
}

// `refuse` says why the kernels do not take a shape, or returns nullptr.
inline AttentionShape attention_shape(const std::string& dtype, const Integers& sizes, const std::string& axes,
                                      float scale, const char* (*refuse)(const AttentionShape&),
                                      std::int64_t extra_tokens = 0) {
    AttentionShape shape;
    shape.dtype = dtype_argument(dtype);
    if (sizes.size() != kAttentionAxes)
        throw std::invalid_argument("sizes: expected 6 integers (B, V, T, N, H, D), got " +
                                    std::to_string(sizes.size()));
    for (int axis = 0; axis < kAttentionAxes; ++axis) {
        if (sizes[axis] < 1)
            throw std::invalid_argument("sizes: expected every size to be at least 1, got " +
                                        std::to_string(sizes[axis]));
        shape.sizes[axis] = sizes[axis];
    }
    shape.axes = attention_axes(axes);
    shape.scale = scale;
    if (extra_tokens < 0)
        throw std::invalid_argument("extra_tokens: expected at least 0, got " + std::to_string(extra_tokens));
    shape.extra_tokens = extra_tokens;
    if (const char* refusal = refuse(shape)) throw std::invalid_argument(refusal);
    return shape;
}

template <typename Pointer>
AttentionTensor<Pointer> attention_tensor(const char* name, const AttentionArgument& tensor,
                                          const AttentionShape& shape) {
    const Integers& strides = tensor.second;
    if (tensor.first == 0) throw std::invalid_argument(std::string(name) + ": expected the address of a tensor, got 0");
    if (strides.size() != kAttentionAxes - 1 && strides.size() != kAttentionAxes)
        throw std::invalid_argument(std::string(name) + ": expected 5 or 6 strides, got " +
                                    std::to_string(strides.size()));
    if (strides.size() == kAttentionAxes && shape.sizes[kAttChannel] > 1 && strides[kAttChannel] != 1)
        throw std::invalid_argument(std::string(name) + ": expected stride 1 for the last axis, got " +
                                    std::to_string(strides[kAttChannel]) +
                                    "; pass a tensor with a contiguous last dimension");
    AttentionTensor<Pointer> result;
    result.data = reinterpret_cast<Pointer>(tensor.first);
    for (int axis = 0; axis < kAttentionAxes - 1; ++axis) result.strides[axis] = strides[axis];
    return result;
}

inline AttentionInput input(const char* name, const AttentionArgument& tensor, const AttentionShape& shape) {
    return attention_tensor<const void*>(name, tensor, shape);
}

inline AttentionOutput output(const char* name, const AttentionArgument& tensor, const AttentionShape& shape) {
    return attention_tensor<void*>(name, tensor, shape);
}

// Tensor `index` of those given beside extra_tokens; no data without extra tokens.
template <typename Pointer>
ExtraTensor<Pointer> extra_tensor(const char* name, const std::vector<AttentionArgument>& tensors, std::size_t index,
                                  const AttentionShape& shape) {
    ExtraTensor<Pointer> result;
    if (shape.extra_tokens == 0) return result;
    if (index >= tensors.size() || tensors[index].first == 0)
        throw std::invalid_argument(std::string(name) + ": expected a tensor beside extra_tokens, got none");
    const Integers& strides = tensors[index].second;
    if (strides.size() != 4 || (shape.sizes[kAttChannel] > 1 && strides[3] != 1))
        throw std::invalid_argument(std::string(name) + ": expected 4 strides (B, L, H, D), the last one 1");
    result.data = reinterpret_cast<Pointer>(tensors[index].first);
    for (int axis = 0; axis < 3; ++axis) result.strides[axis] = strides[axis];
    return result;
}

enum class Lse { kRequired, kOptional };

// q, k, v, out, lse; where lse is optional, address 0 stands for none.
inline AttentionForward forward_arguments(const AttentionShape& shape, const std::array<AttentionArgument, 5>& tensors,
                                          Lse lse) {
    AttentionForward args;
    args.shape = shape;
    args.q = input("q", tensors[0], shape);
    args.k = input("k", tensors[1], shape);
    args.v = input("v", tensors[2], shape);
    args.out = output("out", tensors[3], shape);
    if (lse == Lse::kRequired || tensors[4].first != 0) args.lse = output("lse", tensors[4], shape);
    return args;
}

// grad_out, grad_lse (address 0: none), q, k, v, out, lse, dq, dk, dv.
inline AttentionBackward backward_arguments(const AttentionShape& shape,
                                            const std::array<AttentionArgument, 10>& tensors) {
    AttentionBackward args;
    args.shape = shape;
    args.grad_out = input("grad_out", tensors[0], shape);
    if (tensors[1].first != 0) args.grad_lse = input("grad_lse", tensors[1], shape);
    args.q = input("q", tensors[2], shape);
    args.k = input("k", tensors[3], shape);
    args.v = input("v", tensors[4], shape);
    args.out = input("out", tensors[5], shape);
    args.lse = input("lse", tensors[6], shape);
    args.dq = output("dq", tensors[7], shape);
    args.dk = output("dk", tensors[8], shape);
    args.dv = output("dv", tensors[9], shape);
    return args;
}

}  // namespace fourreal::bindings

#include <array>
#include <new>
#include <string>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.hpp"
#include "cpu_module.hpp"
#include "fourreal/axis_attention.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace fourreal::bindings {
namespace {

// Address and strides in elements: 6 of an attention input (the last one 1), 5 of a log-sum-exp.
using Tensor = std::pair<Address, Integers>;
using Tensors = std::vector<Tensor>;

AxisGroup axis_group(const std::string& letters) {
    AxisGroup group;
    for (char letter : letters) {
        if (letter != 'v' && letter != 't' && letter != 'n')
            throw std::invalid_argument("axes: expected letters of 'v', 't', 'n', got '" + letters + "'");
        (letter == 'v' ? group.view : letter == 't' ? group.time : group.token) = true;
    }
    return group;
}

AttentionAxes attention_axes(const std::string& axes) {
    const std::size_t bar = axes.find('|');
    if (bar == std::string::npos) return {{axis_group(axes), {}}, 1};
    return {{axis_group(axes.substr(0, bar)), axis_group(axes.substr(bar + 1))}, 2};
}

AttentionShape attention_shape(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
                               std::int64_t extra_tokens = 0) {
    AttentionShape shape;
    shape.dtype = dtype_argument(dtype);
    if (sizes.size() != kAttentionAxes)
        throw std::invalid_argument("sizes: expected 6 integers (B, V, T, N, H, D), got " + std::to_string(sizes.size()));
    for (int axis = 0; axis < kAttentionAxes; ++axis) {
        if (sizes[axis] < 1)
            throw std::invalid_argument("sizes: expected every size to be at least 1, got " + std::to_string(sizes[axis]));
        shape.sizes[axis] = sizes[axis];
    }
    shape.axes = attention_axes(axes);
    shape.scale = scale;
    if (extra_tokens < 0)
        throw std::invalid_argument("extra_tokens: expected at least 0, got " + std::to_string(extra_tokens));
    shape.extra_tokens = extra_tokens;
    if (const char* refusal = cpu::axis_attention_refusal(shape)) throw std::invalid_argument(refusal);
    return shape;
}

template <typename Pointer>
AttentionTensor<Pointer> attention_tensor(const char* name, const Tensor& tensor, const AttentionShape& shape) {
    const Integers& strides = tensor.second;
    if (tensor.first == 0) throw std::invalid_argument(std::string(name) + ": expected the address of a tensor, got 0");
    if (strides.size() != kAttentionAxes - 1 && strides.size() != kAttentionAxes)
        throw std::invalid_argument(std::string(name) + ": expected 5 or 6 strides, got " + std::to_string(strides.size()));
    if (strides.size() == kAttentionAxes && shape.sizes[kAttChannel] > 1 && strides[kAttChannel] != 1)
        throw std::invalid_argument(std::string(name) + ": expected stride 1 for the last axis, got " +
                                    std::to_string(strides[kAttChannel]) + "; pass a tensor with a contiguous last dimension");
    AttentionTensor<Pointer> result;
    result.data = reinterpret_cast<Pointer>(tensor.first);
    for (int axis = 0; axis < kAttentionAxes - 1; ++axis) result.strides[axis] = strides[axis];
    return result;
}

AttentionInput input(const char* name, const Tensor& tensor, const AttentionShape& shape) {
    return attention_tensor<const void*>(name, tensor, shape);
}

AttentionOutput output(const char* name, const Tensor& tensor, const AttentionShape& shape) {
    return attention_tensor<void*>(name, tensor, shape);
}

template <typename Pointer>
ExtraTensor<Pointer> extra_tensor(const char* name, const Tensors& tensors, std::size_t index, const AttentionShape& shape) {
    ExtraTensor<Pointer> result;
    if (shape.extra_tokens == 0) return result;
    if (index >= tensors.size() || tensors[index].first == 0)
        throw std::invalid_argument(std::string(name) + ": expected a tensor beside extra_tokens, got none");
    const Integers& strides = tensors[index].second;
    if (strides.size() != 4 || (shape.sizes[kAttChannel] > 1 && strides[3] != 1))
        throw std::invalid_argument(std::string(name) + ": expected 4 strides, the last one 1");
    result.data = reinterpret_cast<Pointer>(tensors[index].first);
    for (int axis = 0; axis < 3; ++axis) result.strides[axis] = strides[axis];
    return result;
}

void require_memory(bool enough) {
    if (!enough) throw std::bad_alloc();
}

AttentionForward forward_arguments(const AttentionShape& shape, const std::array<Tensor, 5>& tensors) {
    AttentionForward args;
    args.shape = shape;
    args.q = input("q", tensors[0], shape);
    args.k = input("k", tensors[1], shape);
    args.v = input("v", tensors[2], shape);
    args.out = output("out", tensors[3], shape);
    args.lse = output("lse", tensors[4], shape);
    return args;
}

void forward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
             const std::array<Tensor, 5>& tensors, const std::string& instruction_set, std::int64_t extra_tokens,
             const Tensors& extra) {
    const AttentionShape shape = attention_shape(dtype, sizes, axes, scale, extra_tokens);
    AttentionForward args = forward_arguments(shape, tensors);
    args.extra_k = extra_tensor<const void*>("extra_k", extra, 0, shape);
    args.extra_v = extra_tensor<const void*>("extra_v", extra, 1, shape);
    const cpu::InstructionSet set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    require_memory(cpu::axis_attention_forward(args, set));
}

void forward_pair(const std::string& dtype, const Integers& sizes, const std::array<std::string, 2>& axes, float scale,
                  const std::array<Tensor, 5>& first, const std::array<Tensor, 5>& second,
                  const std::string& instruction_set) {
    const AttentionForward a = forward_arguments(attention_shape(dtype, sizes, axes[0], scale), first);
    const AttentionForward b = forward_arguments(attention_shape(dtype, sizes, axes[1], scale), second);
    const cpu::InstructionSet set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    require_memory(cpu::axis_attention_forward_pair(a, b, set));
}

void backward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
              const std::array<Tensor, 10>& tensors, const std::string& instruction_set, std::int64_t extra_tokens,
              const Tensors& extra) {
    const AttentionShape shape = attention_shape(dtype, sizes, axes, scale, extra_tokens);
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
    args.extra_k = extra_tensor<const void*>("extra_k", extra, 0, shape);
    args.extra_v = extra_tensor<const void*>("extra_v", extra, 1, shape);
    args.extra_dk = extra_tensor<void*>("extra_dk", extra, 2, shape);
    args.extra_dv = extra_tensor<void*>("extra_dv", extra, 3, shape);
    const cpu::InstructionSet set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    require_memory(cpu::axis_attention_backward(args, set));
}

}  // namespace

void bind_axis_attention(py::module_& module) {
    const char* const tensors_help =
        "A tensor is (address, strides in elements); sizes are (B, V, T, N, H, D). ValueError: bad sizes, strides, dtype or "
        "axes; MemoryError: no memory for scratch.";
    module.def("axis_attention_forward", &forward, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "instruction_set"_a = "auto", "extra_tokens"_a = 0, "extra"_a = Tensors(),
               (std::string("tensors: q, k, v, out, lse; extra: extra_k, extra_v (B, L, H, D). ") + tensors_help).c_str());
    module.def("axis_attention_forward_pair", &forward_pair, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "first"_a,
               "second"_a, "instruction_set"_a = "auto",
               (std::string("Two calls in one parallel region; each as axis_attention_forward. ") + tensors_help).c_str());
    module.def("axis_attention_backward", &backward, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "instruction_set"_a = "auto", "extra_tokens"_a = 0, "extra"_a = Tensors(),
               (std::string("tensors: grad_out, grad_lse (address 0: none), q, k, v, out, lse, dq, dk, dv; extra: extra_k, "
                            "extra_v, extra_dk, extra_dv. ") + tensors_help).c_str());
}

}  // namespace fourreal::bindings

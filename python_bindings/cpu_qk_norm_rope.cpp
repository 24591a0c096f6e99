#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.hpp"
#include "cpu_module.hpp"
#include "fourreal/qk_norm_rope.hpp"

namespace py = pybind11;
using namespace py::literals;
using fourreal::bindings::Address;
using fourreal::bindings::Integers;

namespace {

using namespace fourreal;
using Tensor = std::pair<Address, Integers>;  // address and strides

using Angles = std::tuple<Address, Integers, Integers>;  // address, sizes and strides of a tensor that is broadcast

const Angles kAbsent{0, {}, {}};

[[noreturn]] void refuse(const char* name, const std::string& problem) {
    throw std::invalid_argument(std::string(name) + ": " + problem);
}

std::int64_t checked_stride(const char* name, std::int64_t stride) {
    if (stride < 0) refuse(name, "expected no negative stride, got " + std::to_string(stride));
    return stride;
}

template <typename Result>
Result grid_tensor(const char* name, const Tensor& tensor, const NormRopeSetting& setting) {
    Result result;
    if (tensor.second.size() != kAttentionAxes)
        refuse(name, "expected 6 strides, got " + std::to_string(tensor.second.size()));
    for (std::size_t axis = 0; axis < kAttChannel; ++axis)
        result.strides[axis] = checked_stride(name, tensor.second[axis]);
    if (setting.sizes[kAttChannel] > 1 && tensor.second[kAttChannel] != 1)
        refuse(name, "expected stride 1 for the channels, got " + std::to_string(tensor.second[kAttChannel]));
    if (tensor.first == 0) refuse(name, "expected the address of a tensor, got 0");
    result.data = reinterpret_cast<decltype(result.data)>(tensor.first);
    return result;
}

AttentionInput input(const char* name, const Tensor& tensor, const NormRopeSetting& setting) {
    return grid_tensor<AttentionInput>(name, tensor, setting);
}

AttentionOutput output(const char* name, const Tensor& tensor, const NormRopeSetting& setting) {
    for (int axis = 0; axis < kAttChannel && tensor.second.size() == kAttentionAxes; ++axis)
        if (setting.sizes[axis] > 1 && tensor.second[static_cast<std::size_t>(axis)] == 0)
            refuse(name, "expected strides > 0 for an output, got 0 for axis " + std::to_string(axis));
    return grid_tensor<AttentionOutput>(name, tensor, setting);
}

// Sizes are matched from the last axis, as broadcasting does; an axis that is missing or of size 1 gets stride 0.
AngleTensor angles(const char* name, const Angles& tensor, const NormRopeSetting& setting) {
    const auto& [address, sizes, strides] = tensor;
    AngleTensor result;
    if (address == 0) return result;
    const std::int64_t pairs = setting.sizes[kAttChannel] / 2;
    if (setting.sizes[kAttChannel] % 2 != 0)
        refuse("sizes",
               "expected an even number of channels to rotate, got " + std::to_string(setting.sizes[kAttChannel]));
    if (sizes.empty() || sizes.size() > kAttHead + 1 || strides.size() != sizes.size() || sizes.back() != pairs)
        refuse(name, "expected 1 to 5 sizes, the last " + std::to_string(pairs) + ", and as many strides");
    result.strides[kAttHead] = checked_stride(name, strides.back());
    const std::size_t missing = kAttHead + 1 - sizes.size();
    for (std::size_t axis = missing; axis < kAttHead; ++axis) {
        const std::int64_t size = sizes[axis - missing];
        if (size != 1 && size != setting.sizes[axis])
            refuse(name, "expected a size of 1 or " + std::to_string(setting.sizes[axis]) + ", got " +
                             std::to_string(size));
        result.strides[axis] = size == 1 ? 0 : checked_stride(name, strides[axis - missing]);
    }
    result.data = reinterpret_cast<const float*>(address);
    return result;
}

NormRopeSetting norm_rope_setting(const std::string& dtype, const Integers& sizes, Address q_weight, Address k_weight,
                                  const Angles& cos, const Angles& sin, double eps) {
    NormRopeSetting setting{};
    setting.dtype = bindings::dtype_argument(dtype);
    if (setting.dtype == DType::kFloat64) refuse("dtype", "expected 'float32', 'float16' or 'bfloat16', got 'float64'");
    if (sizes.size() != kAttentionAxes)
        refuse("sizes",
               "expected 6 integers (batch, view, time, token, head, channel), got " + std::to_string(sizes.size()));
    for (int axis = 0; axis < kAttentionAxes; ++axis) {
        setting.sizes[axis] = sizes[static_cast<std::size_t>(axis)];
        if (setting.sizes[axis] < 1) refuse("sizes", "expected sizes >= 1, got " + std::to_string(setting.sizes[axis]));
    }
    if ((q_weight == 0) != (k_weight == 0)) refuse("q_weight", "expected both weights or neither");
    if ((std::get<0>(cos) == 0) != (std::get<0>(sin) == 0)) refuse("cos", "expected both cos and sin or neither");
    setting.q_weight = reinterpret_cast<const float*>(q_weight);
    setting.k_weight = reinterpret_cast<const float*>(k_weight);
    setting.cos = angles("cos", cos, setting);
    setting.sin = angles("sin", sin, setting);
    setting.eps = static_cast<float>(eps);
    return setting;
}

void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& out_q, const Tensor& out_k, const std::string& dtype,
                  const Integers& sizes, Address q_weight, Address k_weight, const Angles& cos, const Angles& sin,
                  double eps, const std::string& instruction_set) {
    NormRopeForward args{};
    args.setting = norm_rope_setting(dtype, sizes, q_weight, k_weight, cos, sin, eps);
    args.q = input("q", q, args.setting);
    args.k = input("k", k, args.setting);
    args.out_q = output("out_q", out_q, args.setting);
    args.out_k = output("out_k", out_k, args.setting);
    const auto set = bindings::instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    cpu::qk_norm_rope_forward(args, set);
}

void qk_norm_rope_backward(const Tensor& grad_q, const Tensor& grad_k, const Tensor& q, const Tensor& k,
                           const Tensor& dq, const Tensor& dk, const std::string& dtype, const Integers& sizes,
                           Address q_weight, Address k_weight, Address dq_weight, Address dk_weight,
                           const Angles& cos, const Angles& sin, double eps, const std::string& instruction_set) {
    NormRopeBackward args{};
    args.setting = norm_rope_setting(dtype, sizes, q_weight, k_weight, cos, sin, eps);
    args.grad_q = input("grad_q", grad_q, args.setting);
    args.grad_k = input("grad_k", grad_k, args.setting);
    args.q = input("q", q, args.setting);
    args.k = input("k", k, args.setting);
    args.dq = output("dq", dq, args.setting);
    args.dk = output("dk", dk, args.setting);
    if (q_weight != 0 && dq_weight == 0) refuse("dq_weight", "expected an address with weights, got 0");
    if (k_weight != 0 && dk_weight == 0) refuse("dk_weight", "expected an address with weights, got 0");
    args.dq_weight = reinterpret_cast<float*>(dq_weight);
    args.dk_weight = reinterpret_cast<float*>(dk_weight);
    const auto set = bindings::instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    cpu::qk_norm_rope_backward(args, set);
}

}  // namespace

void fourreal::bindings::bind_qk_norm_rope(py::module_& module) {
    module.def("qk_norm_rope", &::qk_norm_rope, "q"_a, "k"_a, "out_q"_a, "out_k"_a, "dtype"_a, "sizes"_a,
               "q_weight"_a = 0, "k_weight"_a = 0, "cos"_a = kAbsent, "sin"_a = kAbsent, "eps"_a = 1e-6,
               "instruction_set"_a = "auto",
               "RMS-normalise q and k over the channels, scale by their weights, rotate pairs of channels, in one\n"
               "pass.\n\n"
               "A tensor is (address, strides). sizes: (batch, view, time, token, head, channel), as the strides of\n"
               "q, k and the outputs, which may be q and k. dtype: 'float32', 'float16' or 'bfloat16'. Weights: the\n"
               "addresses of contiguous float32 (D), both 0: no normalisation. cos, sin: float32 as (address, sizes,\n"
               "strides), broadcast to (batch, view, time, token, pair); address 0: no rotation. ValueError: bad\n"
               "sizes, strides, dtype.");
    module.def("qk_norm_rope_backward", &::qk_norm_rope_backward, "grad_q"_a, "grad_k"_a, "q"_a, "k"_a, "dq"_a, "dk"_a,
               "dtype"_a, "sizes"_a, "q_weight"_a = 0, "k_weight"_a = 0, "dq_weight"_a = 0, "dk_weight"_a = 0,
               "cos"_a = kAbsent, "sin"_a = kAbsent, "eps"_a = 1e-6, "instruction_set"_a = "auto",
               "Gradients of qk_norm_rope: dq and dk from those of its results, and the weights' (contiguous float32)\n"
               "with the same bits for any number of threads. Other arguments and ValueError as qk_norm_rope.");
}

#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu_module.hpp"
#include "qk_norm_rope_arguments.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace {

using namespace fourreal;
using namespace fourreal::bindings;
using Tensor = TensorArgument;
using Angles = AngleArgument;
using Weight = ParameterArgument;

void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& out_q, const Tensor& out_k, const std::string& dtype,
                  const Integers& sizes, Weight q_weight, Weight k_weight, const Angles& cos, const Angles& sin,
                  double eps, const std::string& instruction_set) {
    NormRopeForward args{};
    args.setting = norm_rope_setting(dtype, sizes, q_weight, k_weight, cos, sin, eps);
    args.q = norm_rope_input("q", q, args.setting);
    args.k = norm_rope_input("k", k, args.setting);
    args.out_q = norm_rope_output("out_q", out_q, args.setting);
    args.out_k = norm_rope_output("out_k", out_k, args.setting);
    const auto set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    cpu::qk_norm_rope_forward(args, set);
}

void qk_norm_rope_backward(const Tensor& grad_q, const Tensor& grad_k, const Tensor& q, const Tensor& k,
                           const Tensor& dq, const Tensor& dk, const std::string& dtype, const Integers& sizes,
                           Weight q_weight, Weight k_weight, Weight dq_weight, Weight dk_weight,
                           const Angles& cos, const Angles& sin, double eps, const std::string& instruction_set) {
    NormRopeBackward args{};
    args.setting = norm_rope_setting(dtype, sizes, q_weight, k_weight, cos, sin, eps);
    args.grad_q = norm_rope_input("grad_q", grad_q, args.setting);
    args.grad_k = norm_rope_input("grad_k", grad_k, args.setting);
    args.q = norm_rope_input("q", q, args.setting);
    args.k = norm_rope_input("k", k, args.setting);
    args.dq = norm_rope_output("dq", dq, args.setting);
    args.dk = norm_rope_output("dk", dk, args.setting);
    if (q_weight != 0 && dq_weight == 0) refuse("dq_weight", "expected an address with weights, got 0");
    if (k_weight != 0 && dk_weight == 0) refuse("dk_weight", "expected an address with weights, got 0");
    args.dq_weight = reinterpret_cast<float*>(dq_weight.address);
    args.dk_weight = reinterpret_cast<float*>(dk_weight.address);
    const auto set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    cpu::qk_norm_rope_backward(args, set);
}

}  // namespace

void fourreal::bindings::bind_qk_norm_rope(py::module_& module) {
    module.def("qk_norm_rope", &::qk_norm_rope, "q"_a, "k"_a, "out_q"_a, "out_k"_a, "dtype"_a, "sizes"_a,
               "q_weight"_a = 0, "k_weight"_a = 0, "cos"_a = kNoAngles, "sin"_a = kNoAngles, "eps"_a = 1e-6,
               "instruction_set"_a = "auto",
               "RMS-normalise q and k over the channels, scale by their weights, rotate pairs of channels, in one\n"
               "pass.\n\n"
               "A tensor is one of torch or (address, strides). sizes: (batch, view, time, token, head, channel), as the\n"
               "strides of q, k and the outputs, which may be q and k. dtype: 'float32', 'float16' or 'bfloat16'. Weights:\n"
               "contiguous float32 (D) or its address, both None or 0: no normalisation. cos, sin: float32, also as\n"
               "(address, sizes, strides), broadcast to (batch, view, time, token, pair); None or address 0: no rotation.\n"
               "ValueError: bad sizes, strides, dtype.");
    module.def("qk_norm_rope_backward", &::qk_norm_rope_backward, "grad_q"_a, "grad_k"_a, "q"_a, "k"_a, "dq"_a, "dk"_a,
               "dtype"_a, "sizes"_a, "q_weight"_a = 0, "k_weight"_a = 0, "dq_weight"_a = 0, "dk_weight"_a = 0,
               "cos"_a = kNoAngles, "sin"_a = kNoAngles, "eps"_a = 1e-6, "instruction_set"_a = "auto",
               "Gradients of qk_norm_rope: dq and dk from those of its results, and the weights' (contiguous float32)\n"
               "with the same bits for any number of threads. Other arguments and ValueError as qk_norm_rope.");
}

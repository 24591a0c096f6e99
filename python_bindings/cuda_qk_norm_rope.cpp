#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda_module.hpp"
#include "qk_norm_rope_arguments.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace {

using namespace fourreal;
using namespace fourreal::bindings;
using Tensor = TensorArgument;
using Angles = AngleArgument;

NormRopeSetting cuda_setting(const std::string& dtype, const Integers& sizes, Address q_weight, Address k_weight,
                             const Angles& cos, const Angles& sin, const std::string& angle_dtype, double eps) {
    NormRopeSetting setting = norm_rope_setting(dtype, sizes, q_weight, k_weight, cos, sin, eps);
    if (const char* refusal = cuda::qk_norm_rope_refusal(setting)) refuse("sizes", refusal);
    setting.angle_dtype = cuda_dtype_argument(angle_dtype);
    return setting;
}

void qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& out_q, const Tensor& out_k, const std::string& dtype,
                  const Integers& sizes, Address q_weight, Address k_weight, const Angles& cos, const Angles& sin,
                  const std::string& angle_dtype, double eps, Address stream) {
    NormRopeForward args{};
    args.setting = cuda_setting(dtype, sizes, q_weight, k_weight, cos, sin, angle_dtype, eps);
    args.q = norm_rope_input("q", q, args.setting);
    args.k = norm_rope_input("k", k, args.setting);
    args.out_q = norm_rope_output("out_q", out_q, args.setting);
    args.out_k = norm_rope_output("out_k", out_k, args.setting);
    const py::gil_scoped_release release;
    require_success("qk_norm_rope", cuda::qk_norm_rope_forward(args, reinterpret_cast<void*>(stream)));
}

std::int64_t qk_norm_rope_backward_partials(const Integers& sizes) {
    return cuda::qk_norm_rope_backward_partials(cuda_setting("float32", sizes, 0, 0, kNoAngles, kNoAngles, "float32", 0.0));
}

void qk_norm_rope_backward(const Tensor& grad_q, const Tensor& grad_k, const Tensor& q, const Tensor& k,
                           const Tensor& dq, const Tensor& dk, const std::string& dtype, const Integers& sizes,
                           Address q_weight, Address k_weight, Address dq_weight, Address dk_weight, Address partials,
                           const Angles& cos, const Angles& sin, const std::string& angle_dtype, double eps,
                           Address stream) {
    NormRopeBackward args{};
    args.setting = cuda_setting(dtype, sizes, q_weight, k_weight, cos, sin, angle_dtype, eps);
    args.grad_q = norm_rope_input("grad_q", grad_q, args.setting);
    args.grad_k = norm_rope_input("grad_k", grad_k, args.setting);
    args.q = norm_rope_input("q", q, args.setting);
    args.k = norm_rope_input("k", k, args.setting);
    args.dq = norm_rope_output("dq", dq, args.setting);
    args.dk = norm_rope_output("dk", dk, args.setting);
    if (q_weight != 0 && (dq_weight == 0 || dk_weight == 0 || partials == 0))
        refuse("partials", "expected addresses for dq_weight, dk_weight and partials with weights, got 0");
    args.dq_weight = reinterpret_cast<float*>(dq_weight);
    args.dk_weight = reinterpret_cast<float*>(dk_weight);
    const py::gil_scoped_release release;
    require_success("qk_norm_rope_backward", cuda::qk_norm_rope_backward(args, reinterpret_cast<float*>(partials),
                                                                         reinterpret_cast<void*>(stream)));
}

}  // namespace

void fourreal::bindings::bind_qk_norm_rope(py::module_& module) {
    module.def("qk_norm_rope", &::qk_norm_rope, "q"_a, "k"_a, "out_q"_a, "out_k"_a, "dtype"_a, "sizes"_a,
               "q_weight"_a = 0, "k_weight"_a = 0, "cos"_a = kNoAngles, "sin"_a = kNoAngles,
               "angle_dtype"_a = "float32", "eps"_a = 1e-6, "stream"_a = 0,
               "As the CPU function of the same name, with device addresses, for up to 256 channels.\n\n"
               "angle_dtype: of cos and sin, 'float32', 'float16' or 'bfloat16'. Asynchronous on `stream` (a cudaStream_t as an\n"
               "integer), which belongs to the current device.\n"
               "ValueError: bad sizes, strides, dtype. RuntimeError: the launch failed.");
    module.def("qk_norm_rope_backward_partials", &::qk_norm_rope_backward_partials, "sizes"_a,
               "How many rows of 2 D floats qk_norm_rope_backward needs as scratch for the gradients of weights.");
    module.def("qk_norm_rope_backward", &::qk_norm_rope_backward, "grad_q"_a, "grad_k"_a, "q"_a, "k"_a, "dq"_a, "dk"_a,
               "dtype"_a, "sizes"_a, "q_weight"_a = 0, "k_weight"_a = 0, "dq_weight"_a = 0, "dk_weight"_a = 0,
               "partials"_a = 0, "cos"_a = kNoAngles, "sin"_a = kNoAngles, "angle_dtype"_a = "float32", "eps"_a = 1e-6,
               "stream"_a = 0,
               "As the CPU function of the same name, with device addresses, for up to 256 channels.\n\n"
               "partials: the scratch, of any contents. Other arguments and errors as qk_norm_rope.");
}

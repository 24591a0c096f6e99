#include <array>
#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "attention_arguments.hpp"
#include "cuda_module.hpp"
#include "fourreal/hopper_attention.hpp"

namespace py = pybind11;
using namespace py::literals;
using fourreal::AttentionBackward;
using fourreal::AttentionForward;
using fourreal::AttentionShape;
using fourreal::bindings::Address;
using fourreal::bindings::AttentionArgument;
using fourreal::bindings::Integers;

namespace {

using Tensors = std::array<AttentionArgument, 5>;
using Gradients = std::array<AttentionArgument, 10>;

const char* take_every_shape(const AttentionShape&) { return nullptr; }

AttentionForward arguments(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
                           const Tensors& tensors) {
    fourreal::bindings::cuda_dtype_argument(dtype);
    return fourreal::bindings::forward_arguments(
        fourreal::bindings::attention_shape(dtype, sizes, axes, scale, take_every_shape), tensors,
        fourreal::bindings::Lse::kRequired);
}

std::string refusal(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
                    const Tensors& tensors) {
    const char* reason = fourreal::cuda::hopper_attention_refusal(arguments(dtype, sizes, axes, scale, tensors));
    return reason ? reason : "";
}

void require_taken(const AttentionForward& args) {
    if (const char* reason = fourreal::cuda::hopper_attention_refusal(args)) throw std::invalid_argument(reason);
}

void forward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
             const Tensors& tensors, Address stream) {
    const AttentionForward args = arguments(dtype, sizes, axes, scale, tensors);
    require_taken(args);
    const py::gil_scoped_release release;
    fourreal::bindings::require_success(
        "frame_attention_forward",
        fourreal::cuda::hopper_attention_forward(args, nullptr, reinterpret_cast<void*>(stream)));
}

void forward_pair(const std::string& dtype, const Integers& sizes, const std::array<std::string, 2>& axes, float scale,
                  const Tensors& first, const Tensors& second, Address stream) {
    const AttentionForward a = arguments(dtype, sizes, axes[0], scale, first);
    const AttentionForward b = arguments(dtype, sizes, axes[1], scale, second);
    require_taken(a);
    require_taken(b);
    const py::gil_scoped_release release;
    fourreal::bindings::require_success(
        "frame_attention_forward_pair",
        fourreal::cuda::hopper_attention_forward(a, &b, reinterpret_cast<void*>(stream)));
}

AttentionBackward backward_arguments(const std::string& dtype, const Integers& sizes, const std::string& axes,
                                     float scale, const Gradients& tensors) {
    fourreal::bindings::cuda_dtype_argument(dtype);
    return fourreal::bindings::backward_arguments(
        fourreal::bindings::attention_shape(dtype, sizes, axes, scale, take_every_shape), tensors);
}

std::string backward_refusal(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
                             const Gradients& tensors) {
    const char* reason =
        fourreal::cuda::hopper_attention_backward_refusal(backward_arguments(dtype, sizes, axes, scale, tensors));
    return reason ? reason : "";
}

std::int64_t backward_floats(const Integers& sizes) {
    return fourreal::cuda::hopper_attention_backward_floats(
        fourreal::bindings::attention_shape("bfloat16", sizes, "vn", 1.0f, take_every_shape));
}

void backward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
              const Gradients& tensors, Address scratch, Address stream) {
    const AttentionBackward args = backward_arguments(dtype, sizes, axes, scale, tensors);
    if (const char* reason = fourreal::cuda::hopper_attention_backward_refusal(args))
        throw std::invalid_argument(reason);
    if (scratch == 0 || scratch % 16 != 0)
        throw std::invalid_argument("scratch: expected an address aligned to 16 bytes, got " + std::to_string(scratch));
    const py::gil_scoped_release release;
    fourreal::bindings::require_success(
        "frame_attention_backward",
        fourreal::cuda::hopper_attention_backward(args, reinterpret_cast<float*>(scratch),
                                                  reinterpret_cast<void*>(stream)));
}

}  // namespace

void fourreal::bindings::bind_hopper(py::module_& module) {
    const std::string help =
        "A tensor is (device address, strides in elements); sizes are (B, V, T, N, H, D). Asynchronous on `stream`, a "
        "cudaStream_t as an integer, which belongs to the current device. ValueError: bad arguments, or what "
        "frame_attention_refusal names. RuntimeError: the launch failed.";
    module.def("frame_attention_refusal", &::refusal, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "Why the Hopper kernel does not take q, k, v, out, lse; empty if it does. ValueError: bad arguments.");
    module.def("frame_attention_forward", &::forward, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "stream"_a = 0, ("tensors: q, k, v, out, lse. " + help).c_str());
    module.def("frame_attention_forward_pair", &::forward_pair, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "first"_a,
               "second"_a, "stream"_a = 0,
               ("Two calls in one launch; each as frame_attention_forward. " + help).c_str());
    const std::string tensors = "tensors: grad_out, grad_lse (address 0: none), q, k, v, out, lse, dq, dk, dv. ";
    module.def("frame_attention_backward_refusal", &::backward_refusal, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a,
               "tensors"_a, (tensors + "As frame_attention_refusal, for the backward.").c_str());
    module.def("frame_attention_backward_floats", &::backward_floats, "sizes"_a,
               "The float32 numbers of scratch memory that frame_attention_backward needs, on the device.");
    module.def("frame_attention_backward", &::backward, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "scratch"_a, "stream"_a = 0, (tensors + "scratch: an address. " + help).c_str());
}

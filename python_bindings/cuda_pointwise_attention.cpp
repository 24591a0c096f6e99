#include "fourreal/pointwise_attention.hpp"

#include <array>
#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "attention_arguments.hpp"
#include "cuda_module.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace fourreal::bindings {
namespace {

AttentionShape pointwise_shape(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale) {
    return attention_shape(dtype, sizes, axes, scale, cuda::pointwise_attention_refusal);
}

void forward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
             const std::array<AttentionArgument, 5>& tensors, std::int64_t shared_bytes, Address stream) {
    const auto args = forward_arguments(pointwise_shape(dtype, sizes, axes, scale), tensors, Lse::kOptional);
    const py::gil_scoped_release release;
    require_success("pointwise_attention_forward",
                    cuda::pointwise_attention_forward(args, shared_bytes, reinterpret_cast<void*>(stream)));
}

void backward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
              const std::array<AttentionArgument, 10>& tensors, std::int64_t shared_bytes, Address stream) {
    const auto args = backward_arguments(pointwise_shape(dtype, sizes, axes, scale), tensors);
    const py::gil_scoped_release release;
    require_success("pointwise_attention_backward",
                    cuda::pointwise_attention_backward(args, shared_bytes, reinterpret_cast<void*>(stream)));
}

}  // namespace

void bind_pointwise_attention(py::module_& module) {
    const std::string help =
        "A tensor is (device address, strides in elements); sizes are (B, V, T, N, H, D). shared_bytes: the most\n"
        "shared memory that a block of the device may have. Asynchronous on `stream` (a cudaStream_t as an integer),\n"
        "which belongs to the current device. ValueError: bad sizes, strides, dtype or axes. RuntimeError: the launch\n"
        "failed.";
    module.def("pointwise_attention_forward", &forward, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "shared_bytes"_a, "stream"_a = 0, ("tensors: q, k, v, out, lse (address 0: none).\n\n" + help).c_str());
    module.def("pointwise_attention_backward", &backward, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "shared_bytes"_a, "stream"_a = 0,
               ("tensors: grad_out, grad_lse (address 0: none), q, k, v, out, lse, dq, dk, dv.\n\n" + help).c_str());
}

}  // namespace fourreal::bindings

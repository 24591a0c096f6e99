#include <array>
#include <new>
#include <string>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "attention_arguments.hpp"
#include "cpu_module.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace fourreal::bindings {
namespace {

using ExtraArguments = std::vector<AttentionArgument>;

void require_memory(bool enough) {
    if (!enough) throw std::bad_alloc();
}

AttentionShape cpu_shape(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
                         std::int64_t extra_tokens = 0) {
    return attention_shape(dtype, sizes, axes, scale, cpu::axis_attention_refusal, extra_tokens);
}

void forward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
             const std::array<AttentionArgument, 5>& tensors, const std::string& instruction_set,
             std::int64_t extra_tokens, const ExtraArguments& extra) {
    const AttentionShape shape = cpu_shape(dtype, sizes, axes, scale, extra_tokens);
    AttentionForward args = forward_arguments(shape, tensors, Lse::kOptional);
    args.extra_k = extra_tensor<const void*>("extra_k", extra, 0, shape);
    args.extra_v = extra_tensor<const void*>("extra_v", extra, 1, shape);
    const cpu::InstructionSet set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    require_memory(cpu::axis_attention_forward(args, set));
}

void forward_pair(const std::string& dtype, const Integers& sizes, const std::array<std::string, 2>& axes, float scale,
                  const std::array<AttentionArgument, 5>& first, const std::array<AttentionArgument, 5>& second,
                  const std::string& instruction_set) {
    const AttentionForward a = forward_arguments(cpu_shape(dtype, sizes, axes[0], scale), first, Lse::kOptional);
    const AttentionForward b = forward_arguments(cpu_shape(dtype, sizes, axes[1], scale), second, Lse::kOptional);
    const cpu::InstructionSet set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    require_memory(cpu::axis_attention_forward_pair(a, b, set));
}

void backward(const std::string& dtype, const Integers& sizes, const std::string& axes, float scale,
              const std::array<AttentionArgument, 10>& tensors, const std::string& instruction_set,
              std::int64_t extra_tokens, const ExtraArguments& extra) {
    const AttentionShape shape = cpu_shape(dtype, sizes, axes, scale, extra_tokens);
    AttentionBackward args = backward_arguments(shape, tensors);
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
               "instruction_set"_a = "auto", "extra_tokens"_a = 0, "extra"_a = ExtraArguments(),
               (std::string("tensors: q, k, v, out, lse (None or address 0: not wanted); extra: extra_k, extra_v (B, L, H, D). ") +
                tensors_help).c_str());
    module.def("axis_attention_forward_pair", &forward_pair, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "first"_a,
               "second"_a, "instruction_set"_a = "auto",
               (std::string("Two calls in one parallel region; each as axis_attention_forward. ") + tensors_help).c_str());
    module.def("axis_attention_backward", &backward, "dtype"_a, "sizes"_a, "axes"_a, "scale"_a, "tensors"_a,
               "instruction_set"_a = "auto", "extra_tokens"_a = 0, "extra"_a = ExtraArguments(),
               (std::string("tensors: grad_out, grad_lse (address 0: none), q, k, v, out, lse, dq, dk, dv; extra: extra_k, "
                            "extra_v, extra_dk, extra_dv. ") + tensors_help).c_str());
}

}  // namespace fourreal::bindings

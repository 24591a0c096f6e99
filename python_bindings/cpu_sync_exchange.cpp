// Binds the CPU kernels of sync_exchange. A tensor is one of torch or the pair (address, strides), a parameter one of torch or
// an address, None or 0 if absent.
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.hpp"
#include "cpu_module.hpp"
#include "fourreal/sync_exchange.hpp"

namespace py = pybind11;
using namespace py::literals;
namespace cpu = fourreal::cpu;

namespace fourreal::bindings {
namespace {

// view_branch, time_branch, view_norm, time_norm, branch_gate, norm_scale, norm_shift, eps
using Parameter = ParameterArgument;
using Norm = std::tuple<Tensor, Tensor, Tensor, Tensor, Parameter, Parameter, Parameter, double>;
using Rows = std::pair<std::int64_t, std::int64_t>;

cpu::RowRange row_range(const Rows& rows, const GridSizes& sizes) {
    const std::int64_t total = sizes[kChannel] == 0 ? 0 : element_count(sizes) / sizes[kChannel];
    if (rows.first < 0 || rows.second < rows.first || rows.second > total)
        throw std::invalid_argument("rows: expected a range within 0 to " + std::to_string(total) + ", got " +
                                    std::to_string(rows.first) + " to " + std::to_string(rows.second));
    return {rows.first, rows.second};
}

std::optional<ExchangeNorm> exchange_norm(const std::optional<Norm>& given, const GridSizes& sizes) {
    if (!given) return std::nullopt;
    const auto& [view_branch, time_branch, view_norm, time_norm, branch_gate, norm_scale, norm_shift, eps] = *given;
    ExchangeNorm norm{};
    norm.branches[0] = stream_tensor("view_branch", view_branch, sizes, Use::kRead);
    norm.branches[1] = stream_tensor("time_branch", time_branch, sizes, Use::kRead);
    norm.norms[0] = stream_tensor("view_norm", view_norm, sizes, Use::kWrite);
    norm.norms[1] = stream_tensor("time_norm", time_norm, sizes, Use::kWrite);
    norm.branch_gate = parameter(branch_gate);
    norm.norm_scale = required_parameter("norm_scale", norm_scale, sizes);
    norm.norm_shift = required_parameter("norm_shift", norm_shift, sizes);
    norm.eps = eps;
    return norm;
}

void sync_exchange_channel(const std::string& kind, const std::string& dtype, const Integers& sizes, const Tensor& view,
                           const Tensor& time, const Tensor& out_view, const Tensor& out_time, Parameter weight,
                           Parameter bias, Parameter input_scale, Parameter gate, const std::optional<Norm>& norm,
                           const std::string& instruction_set) {
    cpu::ChannelExchange args{};
    args.kind = exchange_kind_argument(kind);
    args.dtype = dtype_argument(dtype);
    args.sizes = grid_extents("sizes", sizes);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    args.outs[0] = stream_tensor("out_view", out_view, args.sizes, Use::kWrite);
    args.outs[1] = stream_tensor("out_time", out_time, args.sizes, Use::kWrite);
    args.parameters = {required_parameter("weight", weight, args.sizes), parameter(bias), parameter(input_scale),
                       parameter(gate)};
    const auto of_norm = exchange_norm(norm, args.sizes);
    args.norm = of_norm ? &*of_norm : nullptr;
    const cpu::InstructionSet set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    cpu::sync_exchange_channel(args, set);
}

void sync_exchange_channel_backward(const std::string& kind, const std::string& dtype, const Integers& sizes,
                                    const Tensor& grad_view, const Tensor& grad_time, const Tensor& view, const Tensor& time,
                                    const Tensor& out_view, const Tensor& out_time, Parameter weight,
                                    Parameter input_scale, Parameter gate, Parameter sums, const std::string& instruction_set) {
    cpu::ChannelExchangeBackward args{};
    args.kind = exchange_kind_argument(kind);
    args.dtype = dtype_argument(dtype);
    args.sizes = grid_extents("sizes", sizes);
    args.grads[0] = stream_tensor("grad_view", grad_view, args.sizes, Use::kRead);
    args.grads[1] = stream_tensor("grad_time", grad_time, args.sizes, Use::kRead);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    args.outs[0] = stream_tensor("out_view", out_view, args.sizes, Use::kWrite);
    args.outs[1] = stream_tensor("out_time", out_time, args.sizes, Use::kWrite);
    args.parameters = {required_parameter("weight", weight, args.sizes), nullptr, parameter(input_scale), parameter(gate)};
    require_address("sums", sums, args.sizes);
    args.sums = reinterpret_cast<double*>(sums.address);
    const cpu::InstructionSet set = instruction_set_argument(instruction_set);
    py::gil_scoped_release release;
    cpu::sync_exchange_channel_backward(args, set);
}

void sync_exchange_stage(const std::string& dtype, const Integers& sizes, const Rows& rows, const Tensor& view,
                         const Tensor& time, const std::optional<std::pair<Tensor, Tensor>>& branches, Parameter branch_gate,
                         Parameter input_scale, bool sum, Parameter staged) {
    cpu::StageRows args{};
    args.dtype = dtype_argument(dtype);
    args.sizes = grid_extents("sizes", sizes);
    args.rows = row_range(rows, args.sizes);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    StreamTensor of_branches[kStreams];
    if (branches) {
        of_branches[0] = stream_tensor("view_branch", branches->first, args.sizes, Use::kRead);
        of_branches[1] = stream_tensor("time_branch", branches->second, args.sizes, Use::kRead);
        args.branches = of_branches;
    }
    args.branch_gate = parameter(branch_gate);
    args.input_scale = parameter(input_scale);
    args.sum = sum;
    require_address("staged", staged, args.sizes);
    args.staged = reinterpret_cast<void*>(staged.address);
    py::gil_scoped_release release;
    cpu::sync_exchange_stage(args);
}

void sync_exchange_finish(const std::string& kind, const std::string& dtype, const Integers& sizes, const Rows& rows,
                          const Tensor& view, const Tensor& time, const Tensor& out_view, const Tensor& out_time,
                          Parameter mixed, Parameter bias, Parameter gate, const std::optional<Norm>& norm) {
    cpu::FinishRows args{};
    args.kind = finish_kind_argument(kind);
    args.dtype = dtype_argument(dtype);
    args.sizes = grid_extents("sizes", sizes);
    args.rows = row_range(rows, args.sizes);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    args.outs[0] = stream_tensor("out_view", out_view, args.sizes, Use::kWrite);
    args.outs[1] = stream_tensor("out_time", out_time, args.sizes, Use::kWrite);
    args.mixed = required_parameter("mixed", mixed, args.sizes);
    args.bias = parameter(bias);
    args.gate = parameter(gate);
    const auto of_norm = exchange_norm(norm, args.sizes);
    args.norm = of_norm ? &*of_norm : nullptr;
    if (args.norm && args.kind == FinishKind::kSplit)
        throw std::invalid_argument("norm: expected none for kind 'split'");
    py::gil_scoped_release release;
    cpu::sync_exchange_finish(args);
}

}  // namespace

void bind_sync_exchange(py::module_& module) {
    module.def("sync_exchange_channel", &sync_exchange_channel, "kind"_a, "dtype"_a, "sizes"_a, "view"_a, "time"_a,
               "out_view"_a, "out_time"_a, "weight"_a, "bias"_a = 0, "input_scale"_a = 0, "gate"_a = 0,
               "norm"_a = py::none(), "instruction_set"_a = "auto",
               "The exchange with per-channel weights, 'hard' or 'soft', and with `norm` its fused form.\n\n"
               "sizes: 5 integers (batch, view, time, token, channel). dtype: 'float32', 'float64', 'float16' or 'bfloat16'.\n"
               "Tensors: of torch or (address, 5 strides in elements). Parameters: contiguous, float64 for float64 and\n"
               "float32 otherwise, None or 0 = absent: weight (2, C) or (2, 2, C), bias (C) or (2C), input_scale (B, 2C), gate\n"
               "(B, C) or (B, 2C). norm: (view_branch, time_branch, view_norm, time_norm, branch_gate, norm_scale,\n"
               "norm_shift, eps). Outputs may be the inputs, norms the branches. ValueError: bad sizes, strides, dtype, kind.");
    module.def("sync_exchange_channel_backward", &sync_exchange_channel_backward, "kind"_a, "dtype"_a, "sizes"_a,
               "grad_view"_a, "grad_time"_a, "view"_a, "time"_a, "out_view"_a, "out_time"_a, "weight"_a, "input_scale"_a,
               "gate"_a, "sums"_a, "instruction_set"_a = "auto",
               "Gradients of both streams, and into `sums`, zeroed float64 (B, 3K, C), K = 1 (hard) or 2 (soft), the sums\n"
               "over rows of g_o and then of g_o * x_s in the order (o, s).");
    module.def("sync_exchange_stage", &sync_exchange_stage, "dtype"_a, "sizes"_a, "rows"_a, "view"_a, "time"_a,
               "branches"_a, "branch_gate"_a, "input_scale"_a, "sum"_a, "staged"_a,
               "Rows (begin, end) of both streams side by side (or their sum) in the accumulation type: (rows, 2C) or (rows, C).");
    module.def("sync_exchange_finish", &sync_exchange_finish, "kind"_a, "dtype"_a, "sizes"_a, "rows"_a, "view"_a, "time"_a,
               "out_view"_a, "out_time"_a, "mixed"_a, "bias"_a, "gate"_a, "norm"_a = py::none(),
               "Bias, gate and residual (and norm) for rows (begin, end) of a dense product `mixed`.\n\n"
               "kind: 'hard', 'soft', or 'split', which is 'soft' without the residual.");
}

}  // namespace fourreal::bindings

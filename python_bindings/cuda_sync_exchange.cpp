// Binds the CUDA kernels of sync_exchange. A tensor is the pair (address, strides), a parameter an address, 0 if absent.
#include "fourreal/sync_exchange.hpp"

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.hpp"
#include "cuda_module.hpp"

namespace py = pybind11;
using namespace py::literals;
namespace cuda = fourreal::cuda;

namespace fourreal::bindings {
namespace {

using Chunk = std::array<std::int64_t, 4>;
// view_branch, time_branch, view_norm, time_norm, branch_gate, norm_scale, norm_shift, eps
using Norm = std::tuple<Tensor, Tensor, Tensor, Tensor, Address, Address, Address, double>;

// Calls a kernel's host function without the interpreter's lock.
template <typename Arguments>
void run(const char* name, int (*function)(const Arguments&, void*), const Arguments& arguments, Address stream) {
    const py::gil_scoped_release release;
    require_success(name, function(arguments, reinterpret_cast<void*>(stream)));
}

GridSizes sizes_argument(const Integers& given) {
    const GridSizes sizes = grid_extents("sizes", given);
    constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
    if (rows_of_sample(sizes) > kMost)
        throw std::invalid_argument("sizes: expected up to " + std::to_string(kMost) + " rows in a batch entry, got " +
                                    std::to_string(rows_of_sample(sizes)) + "; pass parts of the tensors");
    return sizes;
}

cuda::RowChunk chunk_argument(const Chunk& given, const GridSizes& sizes) {
    const auto [first_sample, samples, first_row, rows] = given;
    if (first_sample < 0 || samples < 0 || first_row < 0 || rows < 0 || first_sample + samples > sizes[kBatch] ||
        first_row + rows > rows_of_sample(sizes))
        throw std::invalid_argument("chunk: expected (first_sample, samples, first_row, rows) within " +
                                    std::to_string(sizes[kBatch]) + " samples of " +
                                    std::to_string(rows_of_sample(sizes)) + " rows");
    return {first_sample, samples, first_row, rows};
}

ExchangeNorm norm_argument(const Norm& given, const GridSizes& sizes) {
    const auto& [view_branch, time_branch, view_norm, time_norm, branch_gate, norm_scale, norm_shift, eps] = given;
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
                           const Tensor& time, const Tensor& out_view, const Tensor& out_time, Address weight,
                           Address bias, Address input_scale, Address gate, Address stream) {
    cuda::ChannelExchange args{};
    args.kind = exchange_kind_argument(kind);
    args.dtype = cuda_dtype_argument(dtype);
    args.sizes = sizes_argument(sizes);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    args.outs[0] = stream_tensor("out_view", out_view, args.sizes, Use::kWrite);
    args.outs[1] = stream_tensor("out_time", out_time, args.sizes, Use::kWrite);
    args.parameters = {required_parameter("weight", weight, args.sizes), parameter(bias), parameter(input_scale),
                       parameter(gate)};
    run("sync_exchange_channel", &cuda::sync_exchange_channel, args, stream);
}

std::int64_t sync_exchange_channel_row_blocks(const Integers& sizes, const std::string& dtype,
                                              std::int64_t multiprocessors) {
    return cuda::channel_backward_row_blocks(sizes_argument(sizes), cuda_dtype_argument(dtype), multiprocessors);
}

void sync_exchange_channel_backward(const std::string& kind, const std::string& dtype, const Integers& sizes,
                                    const Tensor& grad_view, const Tensor& grad_time, const Tensor& view,
                                    const Tensor& time, const Tensor& out_view, const Tensor& out_time, Address weight,
                                    Address input_scale, Address gate, Address partial, std::int64_t row_blocks,
                                    Address stream) {
    cuda::ChannelExchangeBackward args{};
    args.kind = exchange_kind_argument(kind);
    args.dtype = cuda_dtype_argument(dtype);
    args.sizes = sizes_argument(sizes);
    args.grads[0] = stream_tensor("grad_view", grad_view, args.sizes, Use::kRead);
    args.grads[1] = stream_tensor("grad_time", grad_time, args.sizes, Use::kRead);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    args.outs[0] = stream_tensor("out_view", out_view, args.sizes, Use::kWrite);
    args.outs[1] = stream_tensor("out_time", out_time, args.sizes, Use::kWrite);
    args.parameters = {required_parameter("weight", weight, args.sizes), nullptr, parameter(input_scale),
                       parameter(gate)};
    require_address("partial", partial, args.sizes);
    args.partial = reinterpret_cast<float*>(partial);
    args.row_blocks = row_blocks;
    run("sync_exchange_channel_backward", &cuda::sync_exchange_channel_backward, args, stream);
}

void sync_exchange_norm(const std::string& kind, const std::string& dtype, const Integers& sizes, const Chunk& chunk,
                        const Tensor& view, const Tensor& time, const Tensor& out_view, const Tensor& out_time,
                        Address weight, Address bias, Address input_scale, Address gate, const Norm& norm, Address mixed,
                        Address stream) {
    cuda::NormExchange args{};
    args.kind = exchange_kind_argument(kind);
    args.dtype = cuda_dtype_argument(dtype);
    args.sizes = sizes_argument(sizes);
    args.chunk = chunk_argument(chunk, args.sizes);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    args.outs[0] = stream_tensor("out_view", out_view, args.sizes, Use::kWrite);
    args.outs[1] = stream_tensor("out_time", out_time, args.sizes, Use::kWrite);
    args.parameters = {parameter(weight), parameter(bias), parameter(input_scale), parameter(gate)};
    if (mixed == 0) require_address("weight", weight, args.sizes);
    args.norm = norm_argument(norm, args.sizes);
    args.mixed = parameter(mixed);
    run("sync_exchange_norm", &cuda::sync_exchange_norm, args, stream);
}

std::int64_t sync_exchange_norm_backward_shared_bytes(const std::string& kind, std::int64_t channels) {
    return cuda::norm_backward_shared_bytes(exchange_kind_argument(kind), channels);
}

// grads, norm_grads, streams, branches, outs, branch_outs: the view stream's, then the time stream's.
void sync_exchange_norm_backward(const std::string& kind, const std::string& dtype, const Integers& sizes,
                                 const std::array<Tensor, 12>& tensors, Address weight, Address bias,
                                 Address input_scale, Address gate, Address branch_gate, Address norm_scale, double eps,
                                 Address partial, std::int64_t row_blocks, Address stream) {
    cuda::NormExchangeBackward args{};
    args.kind = exchange_kind_argument(kind);
    args.dtype = cuda_dtype_argument(dtype);
    args.sizes = sizes_argument(sizes);
    StreamTensor* const targets[] = {args.grads, args.norm_grads, args.streams, args.branches, args.outs,
                                     args.branch_outs};
    constexpr const char* kNames[] = {"grads", "norm_grads", "streams", "branches", "outs", "branch_outs"};
    for (int i = 0; i < 12; ++i)
        targets[i / 2][i % 2] = stream_tensor(kNames[i / 2], tensors[i], args.sizes, i < 8 ? Use::kRead : Use::kWrite);
    args.parameters = {required_parameter("weight", weight, args.sizes), parameter(bias), parameter(input_scale),
                       parameter(gate)};
    args.branch_gate = parameter(branch_gate);
    args.norm_scale = required_parameter("norm_scale", norm_scale, args.sizes);
    args.eps = eps;
    require_address("partial", partial, args.sizes);
    args.partial = reinterpret_cast<float*>(partial);
    args.row_blocks = row_blocks;
    run("sync_exchange_norm_backward", &cuda::sync_exchange_norm_backward, args, stream);
}

void sync_exchange_stage(const std::string& dtype, const Integers& sizes, const Chunk& chunk, const Tensor& view,
                         const Tensor& time, const std::optional<std::pair<Tensor, Tensor>>& branches,
                         Address branch_gate, Address input_scale, bool sum, Address staged, Address stream) {
    cuda::StageRows args{};
    args.dtype = cuda_dtype_argument(dtype);
    args.sizes = sizes_argument(sizes);
    args.chunk = chunk_argument(chunk, args.sizes);
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
    args.staged = reinterpret_cast<void*>(staged);
    run("sync_exchange_stage", &cuda::sync_exchange_stage, args, stream);
}

void sync_exchange_finish(const std::string& kind, const std::string& dtype, const Integers& sizes, const Chunk& chunk,
                          const Tensor& view, const Tensor& time, const Tensor& out_view, const Tensor& out_time,
                          Address mixed, Address bias, Address gate, Address stream) {
    cuda::FinishRows args{};
    args.kind = finish_kind_argument(kind);
    args.dtype = cuda_dtype_argument(dtype);
    args.sizes = sizes_argument(sizes);
    args.chunk = chunk_argument(chunk, args.sizes);
    args.streams[0] = stream_tensor("view", view, args.sizes, Use::kRead);
    args.streams[1] = stream_tensor("time", time, args.sizes, Use::kRead);
    args.outs[0] = stream_tensor("out_view", out_view, args.sizes, Use::kWrite);
    args.outs[1] = stream_tensor("out_time", out_time, args.sizes, Use::kWrite);
    args.mixed = required_parameter("mixed", mixed, args.sizes);
    args.bias = parameter(bias);
    args.gate = parameter(gate);
    run("sync_exchange_finish", &cuda::sync_exchange_finish, args, stream);
}

}  // namespace

void bind_sync_exchange(py::module_& module) {
    module.def("sync_exchange_channel", &sync_exchange_channel, "kind"_a, "dtype"_a, "sizes"_a, "view"_a, "time"_a,
               "out_view"_a, "out_time"_a, "weight"_a, "bias"_a = 0, "input_scale"_a = 0, "gate"_a = 0, "stream"_a = 0,
               "The exchange with per-channel weights, 'hard' or 'soft'.\n\n"
               "sizes: 5 integers (batch, view, time, token, channel), up to 2^31 - 1 rows a batch entry. dtype: 'float32',\n"
               "'float16' or 'bfloat16'. Tensors: (device address, 5 strides in elements). Parameters: device addresses of\n"
               "contiguous arrays of that dtype, 0 = absent: weight (2, C) or (2, 2, C), bias (C) or (2C), input_scale\n"
               "(B, 2C), gate (B, C) or (B, 2C). Outputs may be the inputs. Asynchronous on `stream` (a cudaStream_t as an\n"
               "integer) of the current device. ValueError: bad sizes, strides, dtype, kind. RuntimeError: the launch failed.");
    module.def("sync_exchange_channel_row_blocks", &sync_exchange_channel_row_blocks, "sizes"_a, "dtype"_a,
               "multiprocessors"_a, "The row_blocks of the backward that keep a device of so many multiprocessors busy.");
    module.def("sync_exchange_channel_backward", &sync_exchange_channel_backward, "kind"_a, "dtype"_a, "sizes"_a,
               "grad_view"_a, "grad_time"_a, "view"_a, "time"_a, "out_view"_a, "out_time"_a, "weight"_a, "input_scale"_a,
               "gate"_a, "partial"_a, "row_blocks"_a, "stream"_a = 0,
               "Gradients of both streams, and into `partial`, float32 (B, row_blocks, 3K, C), K = 1 (hard) or 2 (soft), the\n"
               "sums over the rows of each block of g_o and then of g_o * x_s in the order (o, s).");
    module.def("sync_exchange_norm", &sync_exchange_norm, "kind"_a, "dtype"_a, "sizes"_a, "chunk"_a, "view"_a, "time"_a,
               "out_view"_a, "out_time"_a, "weight"_a, "bias"_a, "input_scale"_a, "gate"_a, "norm"_a, "mixed"_a = 0,
               "stream"_a = 0,
               "The fused form of the rows of `chunk` (first_sample, samples, first_row, rows), for up to 5120 channels.\n\n"
               "norm: (view_branch, time_branch, view_norm, time_norm, branch_gate, norm_scale, norm_shift, eps). mixed: the\n"
               "product of a dense exchange for these rows, in place of weight and input_scale.");
    module.def("sync_exchange_norm_backward_shared_bytes", &sync_exchange_norm_backward_shared_bytes, "kind"_a, "channels"_a,
               "Shared memory of a block of sync_exchange_norm_backward.");
    module.def("sync_exchange_norm_backward", &sync_exchange_norm_backward, "kind"_a, "dtype"_a, "sizes"_a, "tensors"_a,
               "weight"_a, "bias"_a, "input_scale"_a, "gate"_a, "branch_gate"_a, "norm_scale"_a, "eps"_a, "partial"_a,
               "row_blocks"_a, "stream"_a = 0,
               "Gradients of the fused form per channel, for up to 3072 channels in rows and parameters that start at 16 bytes.\n\n"
               "tensors: view's and time's of each of grads, norm_grads, streams, branches, and the gradients of streams and\n"
               "branches to write. partial: float32 (B, row_blocks, 3K + 6, C), K = 1 (hard) or 2 (soft): sums over the rows of\n"
               "each block of dx_o, dx_o * y_s, dn_s, dn_s * LayerNorm(x_s), dy_s * branch_s.");
    module.def("sync_exchange_stage", &sync_exchange_stage, "dtype"_a, "sizes"_a, "chunk"_a, "view"_a, "time"_a,
               "branches"_a, "branch_gate"_a, "input_scale"_a, "sum"_a, "staged"_a, "stream"_a = 0,
               "The rows of a chunk of both streams side by side (or their sum): (rows, 2C) or (rows, C).");
    module.def("sync_exchange_finish", &sync_exchange_finish, "kind"_a, "dtype"_a, "sizes"_a, "chunk"_a, "view"_a, "time"_a,
               "out_view"_a, "out_time"_a, "mixed"_a, "bias"_a, "gate"_a, "stream"_a = 0,
               "Bias, gate and residual for the rows of a chunk of a dense product `mixed`: 'hard', 'soft', or 'split', which is\n"
               "'soft' without the residual.");
}

}  // namespace fourreal::bindings

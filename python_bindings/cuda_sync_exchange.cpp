#include "fourreal/sync_exchange.hpp"

#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.hpp"
#include "cuda_module.hpp"

namespace py = pybind11;
using namespace py::literals;
using fourreal::bindings::Address;
using fourreal::bindings::Integers;

namespace {

void sync_exchange_hard_channel(Address view, Address time, Address out_view, Address out_time, const std::string& dtype,
                                const Integers& sizes, const Integers& view_strides, const Integers& time_strides,
                                const Integers& out_view_strides, const Integers& out_time_strides, Address weight,
                                Address bias, Address input_scale, Address gate, Address stream) {
    fourreal::bindings::cuda_dtype_argument(dtype);
    const auto args = fourreal::bindings::hard_channel_exchange(view, time, out_view, out_time, dtype, sizes, view_strides,
                                                                time_strides, out_view_strides, out_time_strides, weight,
                                                                bias, input_scale, gate);
    const py::gil_scoped_release release;
    fourreal::bindings::require_success(
        "sync_exchange_hard_channel", fourreal::cuda::sync_exchange_hard_channel(args, reinterpret_cast<void*>(stream)));
}

}  // namespace

void fourreal::bindings::bind_sync_exchange(py::module_& module) {
    module.def("sync_exchange_hard_channel", &::sync_exchange_hard_channel, "view_ptr"_a, "time_ptr"_a, "out_view_ptr"_a,
               "out_time_ptr"_a, "dtype"_a, "sizes"_a, "view_strides"_a, "time_strides"_a, "out_view_strides"_a,
               "out_time_strides"_a, "weight_ptr"_a, "bias_ptr"_a = 0, "input_scale_ptr"_a = 0, "gate_ptr"_a = 0,
               "stream"_a = 0,
               "As the CPU function of the same name, for 'float32', 'float16' and 'bfloat16', with device addresses.\n\n"
               "weight, bias, input_scale and gate are float32. Asynchronous on `stream` (a cudaStream_t as an integer), which\n"
               "belongs to the current device. ValueError: bad sizes, strides, dtype. RuntimeError: the launch failed.");
}

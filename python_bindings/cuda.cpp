#include <algorithm>
#include <stdexcept>
#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.hpp"

namespace py = pybind11;
using namespace py::literals;
using fourreal::bindings::Address;
using fourreal::bindings::Integers;

namespace {

void sync_exchange_hard_channel(Address view, Address time, Address out_view, Address out_time, const std::string& dtype,
                                const Integers& sizes, const Integers& view_strides, const Integers& time_strides,
                                const Integers& out_view_strides, const Integers& out_time_strides, Address weight,
                                Address bias, Address input_scale, Address gate, Address stream) {
    const auto args = fourreal::bindings::hard_channel_exchange(view, time, out_view, out_time, dtype, sizes, view_strides,
                                                                time_strides, out_view_strides, out_time_strides, weight,
                                                                bias, input_scale, gate);
    if (args.dtype == fourreal::DType::kFloat64)
        throw std::invalid_argument("dtype: expected 'float32', 'float16' or 'bfloat16' for the CUDA kernel, got 'float64'");
    int error;
    {
        py::gil_scoped_release release;
        error = fourreal::cuda::sync_exchange_hard_channel(args, reinterpret_cast<void*>(stream));
    }
    if (error != 0)
        throw std::runtime_error(std::string("sync_exchange_hard_channel: CUDA error ") + std::to_string(error) + ": " +
                                 fourreal::cuda::error_string(error));
}

int device_count() {
    int count = 0;
    fourreal::cuda::device_count(&count);
    return count;
}

std::string why_no_device() {
    int count = 0;
    const int error = fourreal::cuda::device_count(&count);
    if (error != 0) return fourreal::cuda::error_string(error);
    return count == 0 ? "no CUDA device" : "";
}

py::dict build_info() {
    py::list archs;
    const std::string names = FOURREAL_CUDA_ARCHS;
    for (std::size_t begin = 0; begin < names.size();) {
        const std::size_t end = std::min(names.find(',', begin), names.size());
        archs.append(names.substr(begin, end - begin));
        begin = end + 1;
    }
    return py::dict("version"_a = FOURREAL_VERSION, "compiler"_a = FOURREAL_CUDA_COMPILER, "archs"_a = py::tuple(archs));
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA kernels of fourreal_kernels. Tensors are passed as addresses, sizes and strides in elements.";
    module.def("sync_exchange_hard_channel", &sync_exchange_hard_channel, "view_ptr"_a, "time_ptr"_a, "out_view_ptr"_a,
               "out_time_ptr"_a, "dtype"_a, "sizes"_a, "view_strides"_a, "time_strides"_a, "out_view_strides"_a,
               "out_time_strides"_a, "weight_ptr"_a, "bias_ptr"_a = 0, "input_scale_ptr"_a = 0, "gate_ptr"_a = 0,
               "stream"_a = 0,
               "As the CPU function of the same name, for 'float32', 'float16' and 'bfloat16', with device addresses.\n\n"
               "weight, bias, input_scale and gate are float32. Asynchronous on `stream` (a cudaStream_t as an integer), which\n"
               "belongs to the current device. ValueError: bad sizes, strides, dtype. RuntimeError: the launch failed.");
    module.def("device_count", &device_count, "The number of usable CUDA devices; 0 without a driver.");
    module.def("why_no_device", &why_no_device, "Why device_count() is 0, in CUDA's words; empty if it is not.");
    module.def("build_info", &build_info, "How this library was built: version, compiler, archs.");
}

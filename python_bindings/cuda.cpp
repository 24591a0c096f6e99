#include <algorithm>
#include <stdexcept>
#include <string>

#include <pybind11/pybind11.h>

#include "cuda_module.hpp"
#include "fourreal/device.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace {

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

void fourreal::bindings::require_success(const char* function, int error) {
    if (error != 0)
        throw std::runtime_error(std::string(function) + ": CUDA error " + std::to_string(error) + ": " +
                                 cuda::error_string(error));
}

fourreal::DType fourreal::bindings::cuda_dtype_argument(const std::string& name) {
    DType dtype;
    if (!parse_dtype(name, &dtype) || dtype == DType::kFloat64)
        throw std::invalid_argument("dtype: expected 'float32', 'float16' or 'bfloat16' for the CUDA kernel, got '" + name +
                                    "'");
    return dtype;
}

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA kernels of fourreal_kernels. Tensors are passed as addresses, sizes and strides in elements.";
    fourreal::bindings::bind_hopper(module);
    fourreal::bindings::bind_pointwise_attention(module);
    fourreal::bindings::bind_qk_norm_rope(module);
    fourreal::bindings::bind_sync_exchange(module);
    module.def("device_count", &device_count, "The number of usable CUDA devices; 0 without a driver.");
    module.def("why_no_device", &why_no_device, "Why device_count() is 0, in CUDA's words; empty if it is not.");
    module.def("build_info", &build_info, "How this library was built: version, compiler, archs.");
}

// A `_cuda` module with the Hopper kernels only, run on the host.
#include <stdexcept>
#include <string>

#include <pybind11/pybind11.h>

#include "cuda_module.hpp"

namespace py = pybind11;

namespace hopper_on_host {
void set_launches(int multiprocessors, int order);
}

void fourreal::bindings::require_success(const char* function, int error) {
    if (error != 0) throw std::runtime_error(std::string(function) + ": error " + std::to_string(error));
}

fourreal::DType fourreal::bindings::cuda_dtype_argument(const std::string& name) {
    DType dtype;
    if (!parse_dtype(name, &dtype)) throw std::invalid_argument("dtype: got '" + name + "'");
    return dtype;
}

PYBIND11_MODULE(_cuda, module) {
    fourreal::bindings::bind_hopper(module);
    module.def("set_launches", &hopper_on_host::set_launches, py::arg("multiprocessors"), py::arg("order"),
               "How many blocks run, one after the other, and the order of threads and copies (see block.hpp).");
}

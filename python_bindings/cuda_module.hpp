// What the binding files of the CUDA module share. cuda_<op>.cpp defines bind_<op>.
#pragma once

#include <string>

#include <pybind11/pybind11.h>

#include "fourreal/dtype.hpp"

namespace fourreal::bindings {

// std::runtime_error naming the function, in CUDA's words, unless `error` (a cudaError_t) is 0.
void require_success(const char* function, int error);

// std::invalid_argument for a name that is not known, and for float64, which no CUDA kernel takes.
DType cuda_dtype_argument(const std::string& name);

void bind_hopper(pybind11::module_& module);
void bind_pointwise_attention(pybind11::module_& module);
void bind_qk_norm_rope(pybind11::module_& module);
void bind_sync_exchange(pybind11::module_& module);

}  // namespace fourreal::bindings

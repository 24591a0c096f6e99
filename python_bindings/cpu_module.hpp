// What the binding files of the CPU module share. Each binds the kernels of one operator.
#pragma once

#include <string>

#include <pybind11/pybind11.h>

#include "fourreal/instruction_set.hpp"

namespace fourreal::bindings {

// "auto" is the widest that can run here. std::invalid_argument for a name that is not known or cannot run.
cpu::InstructionSet instruction_set_argument(const std::string& name);

void bind_axis_attention(pybind11::module_& module);
void bind_memory(pybind11::module_& module);
void bind_qk_norm_rope(pybind11::module_& module);
void bind_sync_exchange(pybind11::module_& module);
void bind_tensors(pybind11::module_& module);

}  // namespace fourreal::bindings

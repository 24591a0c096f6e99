#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu_module.hpp"
#include "fourreal/ceilings.hpp"
#include "fourreal/instruction_set.hpp"

namespace py = pybind11;
using namespace py::literals;
using fourreal::cpu::InstructionSet;

namespace {

py::list usable_instruction_sets() {
    py::list names;
    for (InstructionSet set : fourreal::cpu::usable_instruction_sets())
        names.append(fourreal::cpu::instruction_set_name(set));
    return names;
}

std::string instruction_set() { return fourreal::cpu::instruction_set_name(fourreal::cpu::best_instruction_set()); }

}  // namespace

InstructionSet fourreal::bindings::instruction_set_argument(const std::string& name) {
    if (name == "auto") return fourreal::cpu::best_instruction_set();
    const auto usable = fourreal::cpu::usable_instruction_sets();
    InstructionSet set;
    if (fourreal::cpu::parse_instruction_set(name, &set) && std::find(usable.begin(), usable.end(), set) != usable.end())
        return set;
    std::string expected = "'auto'";
    for (InstructionSet candidate : usable)
        expected += std::string(", '") + fourreal::cpu::instruction_set_name(candidate) + "'";
    throw std::invalid_argument("instruction_set: expected one of " + expected + " on this processor, got '" + name + "'");
}

namespace {

int max_threads() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

py::dict build_info() {
    py::dict info("version"_a = FOURREAL_VERSION, "compiler"_a = FOURREAL_CXX_COMPILER,
                  "archs"_a = py::make_tuple("portable"), "openmp"_a = py::none());
#if FOURREAL_X86_TARGETS
    info["archs"] = py::make_tuple("avx512", "avx2", "portable");
#endif
#if defined(_OPENMP)
    info["openmp"] = _OPENMP;
#endif
    return info;
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    module.doc() = "CPU kernels of fourreal_kernels. Tensors are passed as addresses, sizes and strides in elements.";
    fourreal::bindings::bind_axis_attention(module);
    fourreal::bindings::bind_memory(module);
    fourreal::bindings::bind_qk_norm_rope(module);
    fourreal::bindings::bind_sync_exchange(module);
    fourreal::bindings::bind_tensors(module);
    module.def("instruction_set", &instruction_set, "The instruction set that kernels use here: 'avx512', 'avx2' or 'portable'.");
    module.def("usable_instruction_sets", &usable_instruction_sets, "Every instruction set that can run here, widest first.");
    module.def("measure_fma_gflops", &fourreal::cpu::measure_fma_gflops, "milliseconds"_a = 200,
               py::call_guard<py::gil_scoped_release>(), "float32 GFLOP/s of multiply-adds on all threads.");
    module.def("measure_copy_gbs", &fourreal::cpu::measure_copy_gbs, "megabytes"_a = 128, "repeats"_a = 8,
               py::call_guard<py::gil_scoped_release>(), "GB/s, read plus written, of a copy on all threads.");
    module.def("max_threads", &max_threads, "How many threads a kernel called from this thread may use.");
    module.def("build_info", &build_info, "How this library was built: version, compiler, archs, openmp (date of its API).");
}

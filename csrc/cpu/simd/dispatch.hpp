// Declares a kernel for every instruction set it is compiled for, and picks one of them.
#pragma once

#include "fourreal/instruction_set.hpp"

// FOURREAL_DECLARE_KERNEL(double, fma_loop, (std::int64_t iterations)) declares avx512::fma_loop and its siblings.
#if FOURREAL_X86_TARGETS
#define FOURREAL_DECLARE_KERNEL(result, name, parameters)     \
    namespace fourreal::cpu::avx512 { result name parameters; }   \
    namespace fourreal::cpu::avx2 { result name parameters; }     \
    namespace fourreal::cpu::portable { result name parameters; }
#define FOURREAL_KERNEL_FOR(set, name)                                            \
    ((set) == ::fourreal::cpu::InstructionSet::kAvx512 ? &::fourreal::cpu::avx512::name \
     : (set) == ::fourreal::cpu::InstructionSet::kAvx2 ? &::fourreal::cpu::avx2::name   \
                                                       : &::fourreal::cpu::portable::name)
#else
#define FOURREAL_DECLARE_KERNEL(result, name, parameters) \
    namespace fourreal::cpu::portable { result name parameters; }
#define FOURREAL_KERNEL_FOR(set, name) (static_cast<void>(set), &::fourreal::cpu::portable::name)
#endif

// The CPU instruction sets that kernels are compiled for. The choice among them is made at run time.
#pragma once

#include <string_view>
#include <vector>

// Which kernels were compiled for x86: see the CPU part of CMakeLists.txt.
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define FOURREAL_X86_TARGETS 1
#else
#define FOURREAL_X86_TARGETS 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define FOURREAL_ALWAYS_INLINE inline __attribute__((always_inline))
#define FOURREAL_NEVER_INLINE __attribute__((noinline))
#else
#define FOURREAL_ALWAYS_INLINE inline
#define FOURREAL_NEVER_INLINE
#endif

namespace fourreal::cpu {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

const char* instruction_set_name(InstructionSet set);

// False for a name that is not known. Names: "portable", "avx2", "avx512".
bool parse_instruction_set(std::string_view name, InstructionSet* set);

// The sets that were compiled in and that this processor has, the widest first; never empty.
std::vector<InstructionSet> usable_instruction_sets();

inline InstructionSet best_instruction_set() { return usable_instruction_sets().front(); }

}  // namespace fourreal::cpu

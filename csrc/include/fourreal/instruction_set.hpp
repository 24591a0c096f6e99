// The CPU instruction sets that kernels are compiled for. The choice among them is made at run time.
#pragma once

#include <string_view>
#include <vector>

// gcc and clang compile one source for several x86 instruction sets by function attributes; elsewhere the baseline is all.
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define FOURREAL_X86_TARGETS 1
#define FOURREAL_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#if defined(__clang__)
#define FOURREAL_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"), min_vector_width(512)))
#else
#define FOURREAL_TARGET_AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
#endif
#else
#define FOURREAL_X86_TARGETS 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define FOURREAL_ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define FOURREAL_ALWAYS_INLINE inline
#endif

// Promises that loop iterations may run side by side even if pointers alias: each iteration touches only its own index.
#if defined(__clang__)
#define FOURREAL_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FOURREAL_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#else
#define FOURREAL_INDEPENDENT_ITERATIONS
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

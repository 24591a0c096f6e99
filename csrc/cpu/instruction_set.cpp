#include "fourreal/instruction_set.hpp"

namespace fourreal::cpu {

const char* instruction_set_name(InstructionSet set) {
    switch (set) {
        case InstructionSet::kPortable: return "portable";
        case InstructionSet::kAvx2: return "avx2";
        case InstructionSet::kAvx512: return "avx512";
    }
    return "unknown";
}

bool parse_instruction_set(std::string_view name, InstructionSet* set) {
    for (InstructionSet candidate : {InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512}) {
        if (name != instruction_set_name(candidate)) continue;
        *set = candidate;
        return true;
    }
    return false;
}

std::vector<InstructionSet> usable_instruction_sets() {
    std::vector<InstructionSet> sets;
#if FOURREAL_X86_TARGETS
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) sets.push_back(InstructionSet::kAvx512);
    if (avx2) sets.push_back(InstructionSet::kAvx2);
#endif
    sets.push_back(InstructionSet::kPortable);
    return sets;
}

}  // namespace fourreal::cpu

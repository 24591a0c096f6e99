// One test for each primitive of csrc/cuda/hopper_primitives.cuh, against exact integers: `hopper_microtests NAME...`
// prints a line of JSON per test and exits with 1 if one fails. Run each name in a process of its own with a time
// limit: a wrong barrier hangs. Compiled by nvcc for sm_90a, or for the host with FOURREAL_HOPPER_EMULATION.
#include <cstdio>
#include <cstring>
#include <functional>

#include "boxes.cuh"
#include "products.cuh"
#include "ring.cuh"

namespace hopper_microtests {

struct Test {
    const char* name;
    std::function<Outcome()> run;
};

const Test kTests[] = {{"tma_box", load_box},
                       {"bulk_row", load_row},
                       {"mbarrier_ring", [] { return ring_of(64); }},
                       {"mbarrier_ring_lanes", [] { return ring_of(8); }},
                       {"wgmma_ss_bf16", product_of_shared<BFloat16>},
                       {"wgmma_ss_fp16", product_of_shared<Float16>},
                       {"wgmma_ss_96_columns", [] { return product_with<BFloat16, 96, 64, false>(0, 0); }},
                       {"wgmma_rs_bf16", product_of_registers<BFloat16>},
                       {"wgmma_rs_fp16", product_of_registers<Float16>},
                       {"wgmma_mn_major_bf16", product_with_mn_major<BFloat16>},
                       {"wgmma_mn_major_fp16", product_with_mn_major<Float16>},
                       {"tma_store", store_box}};

}  // namespace hopper_microtests

int main(int count, char** names) {
    using namespace hopper_microtests;
    bool failed = false;
    for (const Test& test : kTests) {
        bool asked = count == 1;
        for (int i = 1; i < count; ++i) asked = asked || std::strcmp(names[i], test.name) == 0;
        if (!asked) continue;
        const Outcome outcome = test.run();
        failed = failed || outcome.wrong != 0;
        std::printf("{\"test\": \"%s\", \"status\": \"%s\", \"wrong\": %d, \"reason\": \"%s\", \"note\": \"%s\"}\n",
                    test.name, outcome.wrong == 0 ? "ok" : "failed", outcome.wrong, outcome.first.c_str(),
                    outcome.note.c_str());
        std::fflush(stdout);
    }
    return failed ? 1 : 0;
}

// What this machine can do at most, measured: the denominators of benchmark results.
#pragma once

#include <cstdint>

namespace fourreal::cpu {

// float32 GFLOP/s of multiply-adds on all threads that a kernel would use, over about `milliseconds`.
double measure_fma_gflops(int milliseconds);

// GB/s (bytes read plus bytes written) of copying `megabytes` MB on all threads, the best of `repeats`.
double measure_copy_gbs(int megabytes, int repeats);

}  // namespace fourreal::cpu

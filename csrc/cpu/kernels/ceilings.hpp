// Loops that reach the limits of a core.
#pragma once

#include <cstdint>

#include "simd/dispatch.hpp"

// Multiply-adds that wait for nothing but one another's units; returns the floating-point operations done.
FOURREAL_DECLARE_KERNEL(double, fma_loop, (std::int64_t iterations))
// Copies `count` floats past the caches where the instruction set can. Both pointers are aligned to 64 bytes.
FOURREAL_DECLARE_KERNEL(void, copy_loop, (const float* from, float* to, std::int64_t count))

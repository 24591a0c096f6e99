// Division by a number that is known only at run time, as a multiplication: GPUs have no instruction to divide integers.
#pragma once

#include <cstdint>

#include "fourreal/grid.hpp"

namespace fourreal {

// Exact for numerators below 2^31. With 2^(s-1) < divisor <= 2^s, the multiplier ceil(2^(31+s) / divisor) fits 32 bits and
// its excess over the true quotient, below 1, cannot carry a numerator below 2^31 over the next integer.
struct Divider {
    std::uint32_t divisor = 1;
    std::uint32_t multiplier = std::uint32_t{1} << 31;
    std::uint32_t shift = 31;

    Divider() = default;
    // 0 < by < 2^31
    explicit Divider(std::uint32_t by) : divisor(by) {
        std::uint32_t bits = 0;
        while ((std::uint64_t{1} << bits) < by) ++bits;
        shift = 31 + bits;
        multiplier = static_cast<std::uint32_t>(((std::uint64_t{1} << shift) + by - 1) / by);
    }

    FOURREAL_HOST_DEVICE std::uint32_t quotient(std::uint32_t value) const {
        return static_cast<std::uint32_t>((static_cast<std::uint64_t>(value) * multiplier) >> shift);
    }
};

}  // namespace fourreal

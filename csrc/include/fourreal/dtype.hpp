// Element types, and conversions of the 16-bit storage types for the CPU (the CUDA kernels use CUDA's own).
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

namespace fourreal {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16 };

constexpr const char* dtype_name(DType dtype) {
    switch (dtype) {
        case DType::kFloat32: return "float32";
        case DType::kFloat64: return "float64";
        case DType::kFloat16: return "float16";
        case DType::kBFloat16: return "bfloat16";
    }
    return "unknown";
}

constexpr std::int64_t element_size(DType dtype) {
    switch (dtype) {
        case DType::kFloat32: return 4;
        case DType::kFloat64: return 8;
        case DType::kFloat16:
        case DType::kBFloat16: return 2;
    }
    return 0;
}

// The names are torch's, without "torch.". Returns false for any other name.
inline bool parse_dtype(std::string_view name, DType* dtype) {
    for (DType candidate : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
        if (name != dtype_name(candidate)) continue;
        *dtype = candidate;
        return true;
    }
    return false;
}

inline std::uint32_t float_bits(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float bits_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

// A mask, because gcc turns `?:` on the conversions below back into branches, which keep a loop from vectorising.
inline std::uint32_t select(bool condition, std::uint32_t if_true, std::uint32_t if_false) {
    const std::uint32_t mask = 0u - static_cast<std::uint32_t>(condition);
    return (if_true & mask) | (if_false & ~mask);
}

// Storage only: arithmetic is done in float. Loops over the conversions have to vectorise: hence scalar types (gcc does not
// vectorise copies of structs) and no branches.
enum class BFloat16 : std::uint16_t {};
enum class Float16 : std::uint16_t {};

inline float load(float value) { return value; }
inline double load(double value) { return value; }
inline float load(BFloat16 value) { return bits_float(static_cast<std::uint32_t>(value) << 16); }

inline float load(Float16 value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value);
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    // Subnormal halves are converted as integers: float subnormals would be lost where denormals are flushed.
    const std::uint32_t subnormal = float_bits(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
    const std::uint32_t normal = (magnitude << 13) + (112u << 23);
    const std::uint32_t special = (magnitude << 13) | 0x7f800000u;
    const std::uint32_t finite = select(magnitude < 0x0400u, subnormal, normal);
    return bits_float(sign | select(magnitude >= 0x7c00u, special, finite));
}

template <typename T>
T store(typename std::conditional_t<sizeof(T) == 8, double, float> value);

template <>
inline float store<float>(float value) {
    return value;
}

template <>
inline double store<double>(double value) {
    return value;
}

// Both round to nearest even and turn every NaN into the quiet NaN that torch writes.
template <>
inline BFloat16 store<BFloat16>(float value) {
    const std::uint32_t bits = float_bits(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return static_cast<BFloat16>(select(is_nan, 0x7fc0u, rounded));
}

template <>
inline Float16 store<Float16>(float value) {
    const std::uint32_t bits = float_bits(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    // Adding 0.5 aligns the units of a half subnormal with the last bits of the sum: the adder does the rounding.
    const std::uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t finite = select(magnitude < 0x38800000u, subnormal, normal);
    const std::uint32_t special = select(magnitude > 0x7f800000u, 0x7e00u, 0x7c00u);
    return static_cast<Float16>(sign | select(magnitude >= 0x47800000u, special, finite));
}

}  // namespace fourreal

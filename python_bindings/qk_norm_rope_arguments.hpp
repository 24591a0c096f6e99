// Conversion of the Python arguments of QK-norm and rotary embedding, with checks, for the CPU and the CUDA module.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "arguments.hpp"
#include "fourreal/qk_norm_rope.hpp"

namespace fourreal::bindings {

using AngleArgument = BroadcastArgument;

inline const AngleArgument kNoAngles{0, {}, {}};

[[noreturn]] inline void refuse(const char* name, const std::string& problem) {
    throw std::invalid_argument(std::string(name) + ": " + problem);
}

inline std::int64_t checked_stride(const char* name, std::int64_t stride) {
    if (stride < 0) refuse(name, "expected no negative stride, got " + std::to_string(stride));
    return stride;
}

template <typename Result>
Result grid_tensor(const char* name, const TensorArgument& tensor, const NormRopeSetting& setting) {
    Result result;
    if (tensor.second.size() != kAttentionAxes)
        refuse(name, "expected 6 strides, got " + std::to_string(tensor.second.size()));
    for (std::size_t axis = 0; axis < kAttChannel; ++axis)
        result.strides[axis] = checked_stride(name, tensor.second[axis]);
    if (setting.sizes[kAttChannel] > 1 && tensor.second[kAttChannel] != 1)
        refuse(name, "expected stride 1 for the channels, got " + std::to_string(tensor.second[kAttChannel]));
    if (tensor.first == 0) refuse(name, "expected the address of a tensor, got 0");
    result.data = reinterpret_cast<decltype(result.data)>(tensor.first);
    return result;
}

inline AttentionInput norm_rope_input(const char* name, const TensorArgument& tensor, const NormRopeSetting& setting) {
    return grid_tensor<AttentionInput>(name, tensor, setting);
}

inline AttentionOutput norm_rope_output(const char* name, const TensorArgument& tensor,
                                        const NormRopeSetting& setting) {
    for (int axis = 0; axis < kAttChannel && tensor.second.size() == kAttentionAxes; ++axis)
        if (setting.sizes[axis] > 1 && tensor.second[static_cast<std::size_t>(axis)] == 0)
            refuse(name, "expected strides > 0 for an output, got 0 for axis " + std::to_string(axis));
    return grid_tensor<AttentionOutput>(name, tensor, setting);
}

// Sizes are matched from the last axis, as broadcasting does; an axis that is missing or of size 1 gets stride 0.
inline AngleTensor norm_rope_angles(const char* name, const AngleArgument& tensor, const NormRopeSetting& setting) {
    const auto& [address, sizes, strides] = static_cast<const AngleArgument::Numbers&>(tensor);
    AngleTensor result;
    if (address == 0) return result;
    const std::int64_t pairs = setting.sizes[kAttChannel] / 2;
    if (setting.sizes[kAttChannel] % 2 != 0)
        refuse("sizes",
               "expected an even number of channels to rotate, got " + std::to_string(setting.sizes[kAttChannel]));
    if (sizes.empty() || sizes.size() > kAttHead + 1 || strides.size() != sizes.size() || sizes.back() != pairs)
        refuse(name, "expected 1 to 5 sizes, the last " + std::to_string(pairs) + ", and as many strides");
    result.strides[kAttHead] = checked_stride(name, strides.back());
    const std::size_t missing = kAttHead + 1 - sizes.size();
    for (std::size_t axis = missing; axis < kAttHead; ++axis) {
        const std::int64_t size = sizes[axis - missing];
        if (size != 1 && size != setting.sizes[axis])
            refuse(name, "expected a size of 1 or " + std::to_string(setting.sizes[axis]) + ", got " +
                             std::to_string(size));
        result.strides[axis] = size == 1 ? 0 : checked_stride(name, strides[axis - missing]);
    }
    result.data = reinterpret_cast<const void*>(address);
    return result;
}

inline NormRopeSetting norm_rope_setting(const std::string& dtype, const Integers& sizes, Address q_weight,
                                         Address k_weight, const AngleArgument& cos, const AngleArgument& sin,
                                         double eps) {
    NormRopeSetting setting{};
    setting.dtype = dtype_argument(dtype);
    if (setting.dtype == DType::kFloat64) refuse("dtype", "expected 'float32', 'float16' or 'bfloat16', got 'float64'");
    if (sizes.size() != kAttentionAxes)
        refuse("sizes",
               "expected 6 integers (batch, view, time, token, head, channel), got " + std::to_string(sizes.size()));
    for (int axis = 0; axis < kAttentionAxes; ++axis) {
        setting.sizes[axis] = sizes[static_cast<std::size_t>(axis)];
        if (setting.sizes[axis] < 1) refuse("sizes", "expected sizes >= 1, got " + std::to_string(setting.sizes[axis]));
    }
    if ((q_weight == 0) != (k_weight == 0)) refuse("q_weight", "expected both weights or neither");
    if ((std::get<0>(cos) == 0) != (std::get<0>(sin) == 0)) refuse("cos", "expected both cos and sin or neither");
    setting.q_weight = reinterpret_cast<const float*>(q_weight);
    setting.k_weight = reinterpret_cast<const float*>(k_weight);
    setting.cos = norm_rope_angles("cos", cos, setting);
    setting.sin = norm_rope_angles("sin", sin, setting);
    setting.angle_dtype = DType::kFloat32;
    setting.eps = static_cast<float>(eps);
    return setting;
}

}  // namespace fourreal::bindings

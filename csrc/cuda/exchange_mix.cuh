// The per-channel exchange of one row: gate, weight, scale and bias multiplied out to factors of the two streams.
#pragma once

#include "exchange_rows.cuh"

namespace fourreal::cuda {

template <ExchangeKind kKind>
constexpr int kOutputsOf = kKind == ExchangeKind::kHard ? 1 : 2;

// gate * weight * input_scale of output `out` and input `in`.
template <typename Access>
__device__ void load_factors(const ExchangeParameters& parameters, const Access& pack, std::int64_t sample, int outputs,
                             int out, int in, float (&factors)[Access::kWidth]) {
    using T = typename Access::T;
    constexpr int kWidth = Access::kWidth;
    const std::int64_t channels = pack.channels;
    const T* scales = static_cast<const T*>(parameters.input_scale);
    const T* gates = static_cast<const T*>(parameters.gate);
    float scale[kWidth];
    float gate[kWidth];
    load_parameter(pack, static_cast<const T*>(parameters.weight) + (2 * out + in) * channels, 0.0f, factors);
    load_parameter(pack, scales ? scales + (2 * sample + in) * channels : nullptr, 1.0f, scale);
    load_parameter(pack, gates ? gates + (outputs * sample + out) * channels : nullptr, 1.0f, gate);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) factors[i] = gate[i] * factors[i] * scale[i];
}

// What an output takes from both streams: from_view * view + from_time * time + offset.
template <int kWidth>
struct OutputMix {
    float from_view[kWidth];
    float from_time[kWidth];
    float offset[kWidth];

    // Explicit fused operations: the bits must not depend on how a kernel was compiled.
    __device__ float apply(int i, float view, float time) const {
        return fmaf(from_view[i], view, fmaf(from_time[i], time, offset[i]));
    }
};

template <typename Access>
__device__ OutputMix<Access::kWidth> load_mix(const ExchangeParameters& parameters, const Access& pack,
                                              std::int64_t sample, int outputs, int out) {
    using T = typename Access::T;
    constexpr int kWidth = Access::kWidth;
    const T* biases = static_cast<const T*>(parameters.bias);
    const T* gates = static_cast<const T*>(parameters.gate);
    OutputMix<kWidth> mix;
    load_factors(parameters, pack, sample, outputs, out, 0, mix.from_view);
    load_factors(parameters, pack, sample, outputs, out, 1, mix.from_time);
    float gate[kWidth];
    load_parameter(pack, biases ? biases + out * pack.channels : nullptr, 0.0f, mix.offset);
    load_parameter(pack, gates ? gates + (outputs * sample + out) * pack.channels : nullptr, 1.0f, gate);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) mix.offset[i] *= gate[i];
    return mix;
}

// What follows the product of a dense exchange: gate * (product + bias) + residual.
template <int kWidth>
struct ProductEnd {
    float bias[kWidth];
    float gate[kWidth];

    __device__ float apply(int i, float product, float residual) const {
        return fmaf(gate[i], product + bias[i], residual);
    }
};

template <typename Access>
__device__ ProductEnd<Access::kWidth> load_product_end(const ExchangeParameters& parameters, const Access& pack,
                                                       std::int64_t sample, int outputs, int out) {
    using T = typename Access::T;
    const T* biases = static_cast<const T*>(parameters.bias);
    const T* gates = static_cast<const T*>(parameters.gate);
    ProductEnd<Access::kWidth> end;
    load_parameter(pack, biases ? biases + out * pack.channels : nullptr, 0.0f, end.bias);
    load_parameter(pack, gates ? gates + (outputs * sample + out) * pack.channels : nullptr, 1.0f, end.gate);
    return end;
}

inline bool parameters_are_aligned(const ExchangeParameters& parameters) {
    return is_aligned(parameters.weight) && is_aligned(parameters.bias) && is_aligned(parameters.input_scale) &&
           is_aligned(parameters.gate);
}

}  // namespace fourreal::cuda

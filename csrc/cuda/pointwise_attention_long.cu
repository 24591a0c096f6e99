// Pointwise attention for sequences whose rows do not fit shared memory: a warp for each row, which reads what the row
// sees from global memory, where the caches have most of it. Any length; bound by these reads and by sums over lanes.
//
// Registers on sm_80, sm_90a, sm_100: forward 72-77, backward 154-184; no spills, no shared memory.
#include <algorithm>
#include <cmath>

#include "fourreal/pointwise_attention.hpp"

#include "launch.cuh"
#include "numbers.cuh"
#include "pointwise_dispatch.cuh"

namespace fourreal::cuda {
namespace {

constexpr int kWarps = 4;
constexpr std::int64_t kMaxBlocks = 1 << 20;  // blocks take further rows
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr unsigned kWholeWarp = 0xffffffffu;

struct Operand {
    void* data;
    std::int64_t strides[kAttentionAxes - 1];

    __device__ std::int64_t offset(const std::int64_t (&index)[kAttentionAxes - 1]) const {
        std::int64_t result = 0;
        for (int axis = 0; axis < kAttentionAxes - 1; ++axis) result += index[axis] * strides[axis];
        return result;
    }
};

template <int kOperands>
struct Launch {
    Operand operands[kOperands];
    std::int64_t sizes[kAttentionAxes];
    std::int64_t rows;
    bool attended[2];  // views, timesteps
    bool is_union;
    float scale;
};

__device__ float sum_over_warp(float value) {
#pragma unroll
    for (int distance = kWarpLanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(kWholeWarp, value, distance);
    return value;
}

// The channels lane, lane + 32, ... of a row.
struct LaneRow {
    float values[kLaneChannels];

    __device__ LaneRow() {
#pragma unroll
        for (float& value : values) value = 0.0f;
    }

    template <typename T>
    __device__ LaneRow(const T* row, int channels) {
#pragma unroll
        for (int e = 0; e < kLaneChannels; ++e) {
            const int channel = static_cast<int>(threadIdx.x) % kWarpLanes + e * kWarpLanes;
            values[e] = channel < channels ? to_float(row[channel]) : 0.0f;
        }
    }

    template <typename T>
    __device__ void write(T* row, int channels) const {
#pragma unroll
        for (int e = 0; e < kLaneChannels; ++e) {
            const int channel = static_cast<int>(threadIdx.x) % kWarpLanes + e * kWarpLanes;
            if (channel < channels) row[channel] = from_float<T>(values[e]);
        }
    }

    // this = this * keep + other * weight
    __device__ void add(float keep, float weight, const LaneRow& other) {
#pragma unroll
        for (int e = 0; e < kLaneChannels; ++e) values[e] = fmaf(weight, other.values[e], values[e] * keep);
    }

    __device__ float dot(const LaneRow& other) const {
        float sum = 0.0f;
#pragma unroll
        for (int e = 0; e < kLaneChannels; ++e) sum = fmaf(values[e], other.values[e], sum);
        return sum_over_warp(sum);
    }
};

template <typename T, int kOperands>
__device__ LaneRow load(const Launch<kOperands>& launch, int which, const std::int64_t (&at)[kAttentionAxes - 1]) {
    const Operand& operand = launch.operands[which];
    const T* const row = static_cast<const T*>(operand.data) + operand.offset(at);
    return LaneRow(row, static_cast<int>(launch.sizes[kAttChannel]));
}

template <typename T, int kOperands>
__device__ void write(const Launch<kOperands>& launch, int which, const std::int64_t (&at)[kAttentionAxes - 1],
                      const LaneRow& row) {
    const Operand& operand = launch.operands[which];
    row.write(static_cast<T*>(operand.data) + operand.offset(at), static_cast<int>(launch.sizes[kAttChannel]));
}

// For each row of the warp: begin(index) with its index, visit(index) with that of each row that it sees, end(index).
template <int kOperands, typename Begin, typename Visit, typename End>
__device__ void for_rows(const Launch<kOperands>& launch, Begin begin, Visit visit, End end) {
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWarps;
    std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpLanes;
    for (; row < launch.rows; row += step) {
        std::int64_t at[kAttentionAxes - 1];
        std::int64_t rest = row;
        for (int axis = kAttHead; axis >= kAttBatch; --axis) {
            at[axis] = rest % launch.sizes[axis];
            rest /= launch.sizes[axis];
        }
        begin(at);
        const std::int64_t view = at[kAttView], time = at[kAttTime];
        const std::int64_t views = launch.attended[0] ? launch.sizes[kAttView] : 1;
        const std::int64_t times = launch.attended[1] ? launch.sizes[kAttTime] : 1;
        const std::int64_t seen = launch.is_union ? views + times - 1 : views * times;
        std::int64_t other[kAttentionAxes - 1] = {at[kAttBatch], view, time, at[kAttToken], at[kAttHead]};
        for (std::int64_t i = 0; i < seen; ++i) {
            if (launch.is_union) {
                // all timesteps of the view, then the other views
                const std::int64_t before = i - times;
                other[kAttTime] = i < times ? i : time;
                other[kAttView] = i < times ? view : before + (before >= view);
            } else {
                if (launch.attended[0]) other[kAttView] = i / times;
                if (launch.attended[1]) other[kAttTime] = i % times;
            }
            visit(other);
        }
        end(at);
    }
}

enum ForwardOperand : int { kQuery, kKey, kValue, kOut, kLse, kForwardOperands };

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarpLanes) long_forward(const Launch<kForwardOperands> launch) {
    const float factor = launch.scale * kLog2E;
    LaneRow q, sums;
    float largest = 0.0f, total = 0.0f;
    for_rows(
        launch,
        [&](const auto& at) {
            q = load<T>(launch, kQuery, at);
            sums = LaneRow();
            largest = -INFINITY;
            total = 0.0f;
        },
        [&](const auto& at) {
            const float score = q.dot(load<T>(launch, kKey, at)) * factor;
            const float before = largest;
            largest = fmaxf(largest, score);
            const float origin = largest == -INFINITY ? 0.0f : largest;
            const float keep = exp2f(before - origin), weight = exp2f(score - origin);
            total = fmaf(total, keep, weight);
            sums.add(keep, weight, load<T>(launch, kValue, at));
        },
        [&](const auto& at) {
            LaneRow out;
            out.add(0.0f, 1.0f / total, sums);
            write<T>(launch, kOut, at, out);
            const Operand& lse = launch.operands[kLse];
            if (lse.data != nullptr && threadIdx.x % kWarpLanes == 0)
                static_cast<float*>(lse.data)[lse.offset(at)] = (largest + log2f(total)) * kLn2;
        });
}

enum BackwardOperand : int {
    kBackQuery, kBackKey, kBackValue, kBackOut, kGradOut, kBackLse, kGradLse, kQueryGrad, kKeyGrad, kValueGrad,
    kBackwardOperands
};

// A row of the backward pass, what belongs to it as a query, and its gradients.
struct GradientRow {
    LaneRow q, k, v, grad_out, dq, dk, dv;
    float lse, mean;
};

// lse in units of log2, and the sum of P * dP, which is grad_out * out, less the gradient of lse.
template <typename T>
__device__ void load_query(const Launch<kBackwardOperands>& launch, const std::int64_t (&at)[kAttentionAxes - 1],
                           GradientRow& row) {
    row.q = load<T>(launch, kBackQuery, at);
    row.grad_out = load<T>(launch, kGradOut, at);
    row.mean = row.grad_out.dot(load<T>(launch, kBackOut, at));
    const Operand& lse = launch.operands[kBackLse];
    const Operand& grad_lse = launch.operands[kGradLse];
    row.lse = static_cast<const float*>(lse.data)[lse.offset(at)] * kLog2E;
    if (grad_lse.data != nullptr) row.mean -= static_cast<const float*>(grad_lse.data)[grad_lse.offset(at)];
}

// The row is a query of what it sees, and a key of the same rows.
template <typename T>
__global__ void __launch_bounds__(kWarps* kWarpLanes) long_backward(const Launch<kBackwardOperands> launch) {
    const float factor = launch.scale * kLog2E;
    GradientRow own;
    for_rows(
        launch,
        [&](const auto& at) {
            load_query<T>(launch, at, own);
            own.k = load<T>(launch, kBackKey, at);
            own.v = load<T>(launch, kBackValue, at);
            own.dq = own.dk = own.dv = LaneRow();
        },
        [&](const auto& at) {
            GradientRow other;
            other.k = load<T>(launch, kBackKey, at);
            other.v = load<T>(launch, kBackValue, at);
            const float seen = exp2f(fmaf(own.q.dot(other.k), factor, -own.lse));
            own.dq.add(1.0f, launch.scale * seen * (own.grad_out.dot(other.v) - own.mean), other.k);
            load_query<T>(launch, at, other);
            const float sees = exp2f(fmaf(other.q.dot(own.k), factor, -other.lse));
            own.dk.add(1.0f, launch.scale * sees * (other.grad_out.dot(own.v) - other.mean), other.q);
            own.dv.add(1.0f, sees, other.grad_out);
        },
        [&](const auto& at) {
            write<T>(launch, kQueryGrad, at, own.dq);
            write<T>(launch, kKeyGrad, at, own.dk);
            write<T>(launch, kValueGrad, at, own.dv);
        });
}

template <typename Pointer>
Operand operand(const AttentionTensor<Pointer>& tensor) {
    Operand result{};
    result.data = const_cast<void*>(static_cast<const void*>(tensor.data));
    std::copy_n(tensor.strides, kAttentionAxes - 1, result.strides);
    return result;
}

template <int kOperands>
Launch<kOperands> prepare(const AttentionShape& shape) {
    Launch<kOperands> launch{};
    launch.rows = 1;
    for (int axis = 0; axis < kAttentionAxes; ++axis) {
        launch.sizes[axis] = shape.sizes[axis];
        if (axis != kAttChannel) launch.rows *= shape.sizes[axis];
    }
    for (int i = 0; i < shape.axes.count; ++i) {
        launch.attended[0] |= shape.axes.groups[i].view;
        launch.attended[1] |= shape.axes.groups[i].time;
    }
    launch.is_union = shape.axes.count == 2;
    launch.scale = shape.scale;
    return launch;
}

template <typename Kernel, int kOperands>
int start(Kernel kernel, const Launch<kOperands>& launch, void* stream) {
    const std::int64_t blocks = std::min((launch.rows + kWarps - 1) / kWarps, kMaxBlocks);
    const dim3 grid(static_cast<unsigned>(blocks)), block(kWarps * kWarpLanes);
    FOURREAL_LAUNCH(kernel, grid, block, 0, static_cast<cudaStream_t>(stream), launch);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace

int pointwise_long_forward(const AttentionForward& args, void* stream) {
    auto launch = prepare<kForwardOperands>(args.shape);
    launch.operands[kQuery] = operand(args.q);
    launch.operands[kKey] = operand(args.k);
    launch.operands[kValue] = operand(args.v);
    launch.operands[kOut] = operand(args.out);
    launch.operands[kLse] = operand(args.lse);
    switch (args.shape.dtype) {
        case DType::kFloat32: return start(long_forward<float>, launch, stream);
        case DType::kFloat16: return start(long_forward<__half>, launch, stream);
        case DType::kBFloat16: return start(long_forward<__nv_bfloat16>, launch, stream);
        case DType::kFloat64: break;
    }
    return cudaErrorInvalidValue;
}

int pointwise_long_backward(const AttentionBackward& args, void* stream) {
    auto launch = prepare<kBackwardOperands>(args.shape);
    launch.operands[kBackQuery] = operand(args.q);
    launch.operands[kBackKey] = operand(args.k);
    launch.operands[kBackValue] = operand(args.v);
    launch.operands[kBackOut] = operand(args.out);
    launch.operands[kGradOut] = operand(args.grad_out);
    launch.operands[kBackLse] = operand(args.lse);
    launch.operands[kGradLse] = operand(args.grad_lse);
    launch.operands[kQueryGrad] = operand(args.dq);
    launch.operands[kKeyGrad] = operand(args.dk);
    launch.operands[kValueGrad] = operand(args.dv);
    switch (args.shape.dtype) {
        case DType::kFloat32: return start(long_backward<float>, launch, stream);
        case DType::kFloat16: return start(long_backward<__half>, launch, stream);
        case DType::kBFloat16: return start(long_backward<__nv_bfloat16>, launch, stream);
        case DType::kFloat64: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace fourreal::cuda

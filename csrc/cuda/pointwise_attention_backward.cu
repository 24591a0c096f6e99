// Backward of pointwise attention: one pass, grad_out, q, k and v read once, dq, dk and dv written once: 14 bytes per
// element of 16 bits. Weights are computed again from q and k, and with them all that depends on out and lse.
//
// A block owns whole sequences, so that each gradient is a sum of a fixed order, without atomics.
//
// Registers on sm_80, sm_90a, sm_100: 128-153 for 16-bit elements, 163-223 for float; no spills. Shared memory for the 32
// threads of a block, 16 bits, D = 64: 18 KiB at 8 entries, so that an SM of 228 KiB holds 11 blocks (CUDA
// adds 1 KiB to each); the registers allow 12.
#include "fourreal/pointwise_attention.hpp"

#include "launch.cuh"
#include "pointwise_dispatch.cuh"
#include "pointwise_products.cuh"

namespace fourreal::cuda {
namespace {

enum Operand : int { kQuery, kKey, kGradOut, kValue, kQueryGrad, kKeyGrad, kValueGrad, kGradLse, kOperands };
constexpr int kStaged = 4;
constexpr int kMatrices = 2;

__device__ float lse_gradient(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets,
                              const ColumnOwner& owner) {
    const PointwiseOperand& grad = launch.operands[kGradLse];
    if (grad.data == nullptr) return 0.0f;
    const PointwiseTiles& tiles = launch.tiles;
    const int entry = owner.line * tiles.inner + owner.entry;
    const std::int64_t offset = offsets[(kGradLse << tiles.position_bits) + owner.position] +
                                entry_offset(grad, entry / tiles.entry_columns, entry % tiles.entry_columns);
    return static_cast<const float*>(grad.data)[offset];
}

// A thread for each column: scores become the probabilities P, `grads`, which holds dP, the gradients of the products
// q . k: scale * P * (dP - sum(P * dP) + grad_lse).
__device__ void take_softmax_gradient(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets,
                                      float* scores, float* grads) {
    const PointwiseTiles& tiles = launch.tiles;
    const int columns = tiles.columns();
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const ColumnOwner owner = tiles.owner(column);
        if (!owner.is_query || !is_position(launch, owner.position)) continue;
        float* const score = scores + column;
        float* const grad = grads + column;
        const float largest = largest_score(tiles, owner, score);
        float sum = 0.0f;
        float product = 0.0f;
        for_slots(tiles, owner.line, [&](int slot) {
            const float weight = exp2f(score[slot * columns] - largest);
            score[slot * columns] = weight;
            sum += weight;
            product = fmaf(weight, grad[slot * columns], product);
        });
        const float part = 1.0f / sum;
        const float mean = product * part;
        const float grad_lse = lse_gradient(launch, offsets, owner);
        for_slots(tiles, owner.line, [&](int slot) {
            const float probability = score[slot * columns] * part;
            score[slot * columns] = probability;
            grad[slot * columns] = launch.scale * probability * (grad[slot * columns] - mean + grad_lse);
        });
    }
}

template <typename T>
__global__ void __launch_bounds__(kMaxWarps* kWarpLanes, sizeof(T) == 2 ? 3 : 2)
    pointwise_backward(const PointwiseLaunch<kOperands> launch) {
    FOURREAL_DYNAMIC_SHARED(unsigned char, shared);
    const PointwiseTiles& tiles = launch.tiles;
    const Rows<T> access(launch);
    const int elements = tiles.rows() * access.pitch;
    T* const rows = reinterpret_cast<T*>(shared);  // q, k, grad_out, v
    const int cells = tiles.slots() * tiles.columns();
    float* const matrices = reinterpret_cast<float*>(rows + kStaged * elements);  // P, dP
    auto* const offsets = reinterpret_cast<std::int64_t*>(matrices + kMatrices * cells);

    find_positions(launch, offsets);
    __syncthreads();
#pragma unroll 1
    for (int i = kQuery; i <= kValue; ++i) {
        copy_rows(launch, offsets, access, i, rows + i * elements);
        if (i % 2 == 1) commit_copies();  // q and k together, then grad_out and v
    }
#pragma unroll 1
    for (int product = 0; product < kMatrices; ++product) {
        if (product == 0) wait_for_copies<1>();
        else wait_for_copies<0>();
        __syncthreads();
        T* const left = rows + 2 * product * elements;
        const float factor = product == 0 ? launch.scale * kLog2E : 1.0f;
        score_all(tiles, access, left, left + elements, factor, matrices + product * cells);
    }
    __syncthreads();
    take_softmax_gradient(launch, offsets, matrices, matrices + cells);
    __syncthreads();
    // dq sums k and dk sums q by dS; dv sums grad_out by P.
#pragma unroll 1
    for (int i = 0; i < 3; ++i) {
        const T* const summed = rows + (i == 0 ? 1 : i == 1 ? 0 : 2) * elements;
        weigh_all(launch, offsets, access, kQueryGrad + i, summed, matrices + (i < 2 ? cells : 0), i > 0);
    }
}

struct Backward {
    static constexpr int kOperandCount = kOperands;
    template <typename T>
    static constexpr auto kernel() {
        return pointwise_backward<T>;
    }
};

}  // namespace

int pointwise_attention_backward(const AttentionBackward& args, std::int64_t shared_bytes, void* stream) {
    const PointwiseAxes axes = pointwise_axes(args.shape, args.q.strides);
    const PointwisePlan plan = pointwise_plan(args.shape, axes, kStaged, kMatrices, kOperands, shared_bytes);
    if (!plan.fits) return pointwise_long_backward(args, stream);
    PointwiseLaunch<kOperands> launch{};
    const auto operand = [&](const auto& tensor) { return pointwise_operand(tensor, args.shape, axes); };
    launch.operands[kQuery] = operand(args.q);
    launch.operands[kKey] = operand(args.k);
    launch.operands[kGradOut] = operand(args.grad_out);
    launch.operands[kValue] = operand(args.v);
    launch.operands[kQueryGrad] = operand(args.dq);
    launch.operands[kKeyGrad] = operand(args.dk);
    launch.operands[kValueGrad] = operand(args.dv);
    launch.operands[kGradLse] = operand(args.grad_lse);
    return launch_pointwise<Backward>(launch, plan, args.shape, axes, stream);
}

}  // namespace fourreal::cuda

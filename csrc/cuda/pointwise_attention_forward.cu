// Forward of pointwise attention: one pass, q, k and v read once, out written once: 8 bytes per element of 16 bits.
//
// Registers on sm_80, sm_90a, sm_100: 114-124 for 16-bit elements, 145-159 for float; no spills. Shared memory for the 32
// threads of a block, 16 bits, D = 64: 13 KiB at 8 entries, so that an SM of 228 KiB holds 16 blocks, as many as the
// registers allow.
#include "fourreal/pointwise_attention.hpp"

#include "launch.cuh"
#include "pointwise_dispatch.cuh"
#include "pointwise_products.cuh"

namespace fourreal::cuda {
namespace {

enum Operand : int { kQuery, kKey, kValue, kOut, kLse, kOperands };
constexpr int kStaged = 3;
constexpr int kMatrices = 1;

// Scores become weights of sum 1, a thread for each column; lse is written.
__device__ void take_softmax(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets, float* scores) {
    const PointwiseTiles& tiles = launch.tiles;
    const int columns = tiles.columns();
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const ColumnOwner owner = tiles.owner(column);
        if (!owner.is_query || !is_position(launch, owner.position)) continue;
        float* const score = scores + column;
        const float largest = largest_score(tiles, owner, score);
        float sum = 0.0f;
        for_slots(tiles, owner.line, [&](int slot) {
            const float weight = exp2f(score[slot * columns] - largest);
            score[slot * columns] = weight;
            sum += weight;
        });
        const float part = 1.0f / sum;
        for_slots(tiles, owner.line, [&](int slot) { score[slot * columns] *= part; });

        const PointwiseOperand& lse = launch.operands[kLse];
        if (lse.data == nullptr) continue;
        const int entry = owner.line * tiles.inner + owner.entry;
        const std::int64_t offset = offsets[(kLse << tiles.position_bits) + owner.position] +
                                    entry_offset(lse, entry / tiles.entry_columns, entry % tiles.entry_columns);
        static_cast<float*>(lse.data)[offset] = (largest + log2f(sum)) * kLn2;
    }
}

template <typename T>
__global__ void __launch_bounds__(kMaxWarps* kWarpLanes, sizeof(T) == 2 ? 4 : 3)
    pointwise_forward(const PointwiseLaunch<kOperands> launch) {
    FOURREAL_DYNAMIC_SHARED(unsigned char, shared);
    const PointwiseTiles& tiles = launch.tiles;
    const Rows<T> access(launch);
    const int elements = tiles.rows() * access.pitch;
    T* const q = reinterpret_cast<T*>(shared);
    T* const k = q + elements;
    T* const v = k + elements;
    float* const scores = reinterpret_cast<float*>(v + elements);
    auto* const offsets = reinterpret_cast<std::int64_t*>(scores + tiles.slots() * tiles.columns() * kMatrices);

    find_positions(launch, offsets);
    __syncthreads();
#pragma unroll 1
    for (int i = kQuery; i <= kValue; ++i) {
        copy_rows(launch, offsets, access, i, q + i * elements);
        if (i != kQuery) commit_copies();  // q and k together, then v
    }
    wait_for_copies<1>();
    __syncthreads();
    score_all(tiles, access, q, k, launch.scale * kLog2E, scores);
    wait_for_copies<0>();
    __syncthreads();
    take_softmax(launch, offsets, scores);
    __syncthreads();
    weigh_all(launch, offsets, access, kOut, v, scores, false);
}

struct Forward {
    static constexpr int kOperandCount = kOperands;
    template <typename T>
    static constexpr auto kernel() {
        return pointwise_forward<T>;
    }
};

bool is_pointwise(const AttentionAxes& axes) {
    for (int i = 0; i < axes.count; ++i)
        if (axes.groups[i].token) return false;
    return true;
}

}  // namespace

const char* pointwise_attention_refusal(const AttentionShape& shape) {
    if (shape.dtype == DType::kFloat64) return "dtype: its kernels compute in float32, the call is float64";
    if (!is_pointwise(shape.axes)) return "axes: its kernels take 'v', 't', 'vt' and 'v|t'";
    if (shape.sizes[kAttChannel] > kMostChannels) return "sizes: its kernels take head dims up to 256";
    return nullptr;
}

int pointwise_attention_forward(const AttentionForward& args, std::int64_t shared_bytes, void* stream) {
    const PointwiseAxes axes = pointwise_axes(args.shape, args.q.strides);
    const PointwisePlan plan = pointwise_plan(args.shape, axes, kStaged, kMatrices, kOperands, shared_bytes);
    if (!plan.fits) return pointwise_long_forward(args, stream);
    PointwiseLaunch<kOperands> launch{};
    const auto operand = [&](const auto& tensor) { return pointwise_operand(tensor, args.shape, axes); };
    launch.operands[kQuery] = operand(args.q);
    launch.operands[kKey] = operand(args.k);
    launch.operands[kValue] = operand(args.v);
    launch.operands[kOut] = operand(args.out);
    launch.operands[kLse] = operand(args.lse);
    return launch_pointwise<Forward>(launch, plan, args.shape, axes, stream);
}

}  // namespace fourreal::cuda

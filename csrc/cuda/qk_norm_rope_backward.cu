#include "fourreal/qk_norm_rope.hpp"

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include "launch.cuh"
#include "norm_rope_rows.cuh"

// One launch for the gradients of q and k, every element read and written once: 6 B V T N H D elements (4 without a
// normalisation). A group of lanes takes the same head of a token in q and in k: four 16-byte loads in flight per lane.
// The terms of the weights' gradients are added up by lane over the rows that it takes, then over the block, and left
// as one partial sum per block; a small kernel adds these in their order. So results repeat bit for bit.
namespace fourreal::cuda {
namespace {

constexpr std::int64_t kMaxBlocks = 2048;  // and so many partial sums
constexpr std::int64_t kLeastRounds = 4;   // rows per group of lanes before more blocks are worth their partial sums
constexpr int kWarps = kNormRopeThreads / kWarpLanes;

enum Operand : int { kIn = kStreams, kOut = 2 * kStreams, kCos = 3 * kStreams, kSin, kOperands };

struct Launch {
    RowGeometry rows;
    MergedAxes<kTokenAxes, kOperands> tokens;
    AngleAccess angles;
    const void* grad[kStreams];
    const void* in[kStreams];
    void* out[kStreams];
    std::int64_t head_strides[3 * kStreams];
    const float* weights[kStreams];  // null: no normalisation
    float* partials;                 // (blocks, q or k, D)
    float eps;
};

// The block's sums of the lanes' terms, into its row of the partial sums.
template <typename T>
__device__ inline void add_block(const Launch& launch, const LaneShare& share,
                                 float (&terms)[kStreams][kLaneChannels]) {
    FOURREAL_DYNAMIC_SHARED(float, warp_sums);  // (warp, q or k, D)
    constexpr int kWidth = kPackChannels<T>;
    const int channels = share.channels;
    const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
    const bool first_group = static_cast<int>(threadIdx.x) % kWarpLanes < launch.rows.lanes;
#pragma unroll
    for (int r = 0; r < kStreams * kLaneChannels; ++r) {
        const int s = r / kLaneChannels, i = r % kLaneChannels;
        float sum = terms[s][i];
        for (int offset = launch.rows.lanes; offset < kWarpLanes; offset *= 2)
            sum += __shfl_xor_sync(kWholeWarp, sum, offset);
        const int channel = share.first + i / kWidth * share.step + i % kWidth;
        if (first_group && channel < channels) warp_sums[(warp * kStreams + s) * channels + channel] = sum;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kStreams * channels; i += kNormRopeThreads) {
        float sum = 0.0f;
        for (int w = 0; w < kWarps; ++w) sum += warp_sums[w * kStreams * channels + i];
        launch.partials[static_cast<std::int64_t>(blockIdx.x) * kStreams * channels + i] = sum;
    }
}

template <typename T, bool kVector>
__global__ void __launch_bounds__(kNormRopeThreads) norm_rope_backward_kernel(const Launch launch) {
    const RowGeometry& rows = launch.rows;
    const LaneShare share = LaneShare::of<T>(rows);
    const bool normalises = launch.weights[0] != nullptr;
    const bool rotates = launch.angles.cos != nullptr;
    float weights[kStreams][kLaneChannels];
    float terms[kStreams][kLaneChannels] = {};
    for (int s = 0; normalises && s < kStreams; ++s) load_parameters<T, kVector>(launch.weights[s], share, weights[s]);

    const std::uint32_t per_block = kNormRopeThreads / rows.lanes;
    const std::uint32_t of_warp = threadIdx.x / kWarpLanes * (kWarpLanes / rows.lanes);
    const std::uint32_t in_warp = threadIdx.x % kWarpLanes / rows.lanes;
    // The bound is the same for a whole warp, whose lanes add up their sums together.
    for (std::uint32_t first = blockIdx.x * per_block + of_warp; first < rows.items; first += gridDim.x * per_block) {
        const bool exists = first + in_warp < rows.items;
        const std::uint32_t item = exists ? first + in_warp : first;
        const std::uint32_t token = rows.head_chunks.divide(item);
        const auto head = static_cast<std::int64_t>(item - token * rows.head_chunks.divisor);
        std::int64_t offsets[kOperands];
        launch.tokens.locate(token, offsets);

        LaneRow<T> grads[kStreams], inputs[kStreams];
#pragma unroll
        for (int s = 0; s < kStreams; ++s) {
            grads[s] = load_row<T, kVector>(
                static_cast<const T*>(launch.grad[s]) + offsets[s] + head * launch.head_strides[s], share, exists);
            inputs[s] = load_row<T, kVector>(
                static_cast<const T*>(launch.in[s]) + offsets[kIn + s] + head * launch.head_strides[kIn + s], share,
                exists && normalises);
        }
        LaneAngles angles;
        if (rotates) angles = load_angles<T>(launch.angles, offsets[kCos], offsets[kSin], share);
        float g[kStreams][kLaneChannels];
        float sums[2 * kStreams] = {};  // of x^2 and of g * weight * x
#pragma unroll
        for (int s = 0; s < kStreams; ++s) {
#pragma unroll
            for (int i = 0; i < kLaneChannels; ++i) g[s][i] = grads[s].value(i);
            if (rotates) rotate<true>(g[s], angles);
            if (!normalises) continue;
#pragma unroll
            for (int i = 0; i < kLaneChannels; ++i) {
                const float x = inputs[s].value(i);
                sums[s] += x * x;
                sums[kStreams + s] += g[s][i] * weights[s][i] * x;
            }
        }
        if (normalises) add_lanes(sums, rows.lanes);
#pragma unroll
        for (int s = 0; s < kStreams; ++s) {
            if (normalises) {
                const float inverse = rsqrtf(sums[s] * rows.inverse_channels + launch.eps);
                const float along = inverse * sums[kStreams + s] * rows.inverse_channels;
#pragma unroll
                for (int i = 0; i < kLaneChannels; ++i) {
                    const float normalised = inputs[s].value(i) * inverse;
                    if (exists) terms[s][i] += g[s][i] * normalised;
                    g[s][i] = inverse * (g[s][i] * weights[s][i] - normalised * along);
                }
            }
#pragma unroll
            for (int i = 0; i < kLaneChannels; ++i) grads[s].set(i, g[s][i]);
            T* out = static_cast<T*>(launch.out[s]) + offsets[kOut + s] + head * launch.head_strides[kOut + s];
            if (exists) store_row<T, kVector>(out, grads[s], share);
        }
    }
    if (normalises) add_block<T>(launch, share, terms);
}

constexpr int kSummedColumns = 32;
constexpr int kSummingRows = 32;

// A column of partial sums per threadIdx.x, every 32nd of them per threadIdx.y.
__global__ void __launch_bounds__(kSummedColumns* kSummingRows)
    add_partials_kernel(const float* partials, std::int64_t count, int channels, float* dq_weight, float* dk_weight) {
    __shared__ double sums[kSummingRows][kSummedColumns];
    const int columns = kStreams * channels;
    const int column = static_cast<int>(blockIdx.x * kSummedColumns + threadIdx.x);
    double sum = 0.0;
    if (column < columns)
        for (std::int64_t row = threadIdx.y; row < count; row += kSummingRows) sum += partials[row * columns + column];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= columns) return;
    for (int row = 1; row < kSummingRows; ++row) sum += sums[row][threadIdx.x];
    float* target = column < channels ? dq_weight + column : dk_weight + (column - channels);
    *target = static_cast<float>(sum);
}

Launch prepare(const NormRopeBackward& args, float* partials) {
    const NormRopeSetting& setting = args.setting;
    Launch launch{};
    launch.rows = row_geometry(setting, 1);
    const std::int64_t* const strides[kOperands] = {args.grad_q.strides, args.grad_k.strides, args.q.strides,
                                                    args.k.strides,      args.dq.strides,     args.dk.strides,
                                                    setting.cos.strides, setting.sin.strides};
    launch.tokens = merge_tokens<kOperands>(setting, strides);
    for (int k = 0; k < kCos; ++k) launch.head_strides[k] = strides[k][kAttHead];
    launch.grad[0] = args.grad_q.data;
    launch.grad[1] = args.grad_k.data;
    launch.in[0] = args.q.data;
    launch.in[1] = args.k.data;
    launch.out[0] = args.dq.data;
    launch.out[1] = args.dk.data;
    launch.weights[0] = setting.q_weight;
    launch.weights[1] = setting.k_weight;
    launch.partials = partials;
    launch.eps = setting.eps;
    return launch;
}

template <typename T>
int launch_dtype(const NormRopeBackward& args, float* partials, cudaStream_t stream) {
    const NormRopeSetting& setting = args.setting;
    Launch launch = prepare(args, partials);
    launch.angles = angle_access<T>(setting);
    const std::int64_t blocks = qk_norm_rope_backward_partials(setting);
    const bool vectors = row_vectors_fit<T>(setting, args.grad_q, args.grad_k, args.q, args.k, args.dq, args.dk);
    const auto kernel = vectors ? norm_rope_backward_kernel<T, true> : norm_rope_backward_kernel<T, false>;
    const int columns = kStreams * launch.rows.channels;
    const std::size_t shared_bytes = setting.q_weight == nullptr ? 0 : sizeof(float) * kWarps * columns;
    FOURREAL_LAUNCH(kernel, static_cast<unsigned>(blocks), kNormRopeThreads, shared_bytes, stream, launch);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess || setting.q_weight == nullptr) return static_cast<int>(error);
    const auto summing_blocks = static_cast<unsigned>((columns + kSummedColumns - 1) / kSummedColumns);
    FOURREAL_LAUNCH(add_partials_kernel, summing_blocks, dim3(kSummedColumns, kSummingRows), 0, stream, partials,
                    blocks, launch.rows.channels, args.dq_weight, args.dk_weight);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace

std::int64_t qk_norm_rope_backward_partials(const NormRopeSetting& setting) {
    const RowGeometry rows = row_geometry(setting, 1);
    const std::int64_t per_block = items_per_block(rows) * kLeastRounds;
    return std::min((rows.items + per_block - 1) / per_block, kMaxBlocks);
}

int qk_norm_rope_backward(const NormRopeBackward& args, float* partials, void* stream) {
    if (qk_norm_rope_refusal(args.setting) != nullptr) return cudaErrorInvalidValue;
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    switch (args.setting.dtype) {
        case DType::kFloat32: return launch_dtype<float>(args, partials, cuda_stream);
        case DType::kFloat16: return launch_dtype<__half>(args, partials, cuda_stream);
        case DType::kBFloat16: return launch_dtype<__nv_bfloat16>(args, partials, cuda_stream);
        case DType::kFloat64: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace fourreal::cuda

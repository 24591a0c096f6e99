#include "fourreal/qk_norm_rope.hpp"

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include "launch.cuh"
#include "norm_rope_rows.cuh"

// One launch for q and k, every element read and written once: 4 B V T N H D elements and, through the caches, the
// angles and weights. A group of lanes takes the same kHeads heads of a token in q and in k: four 16-byte loads in
// flight per lane, one reading of the angles.
namespace fourreal::cuda {
namespace {

constexpr int kHeads = 2;
constexpr std::int64_t kMaxBlocks = 8192;  // several waves on any device, so that it need not be asked for its size

enum Operand : int { kOut = kStreams, kCos = 2 * kStreams, kSin, kOperands };

struct Launch {
    RowGeometry rows;
    MergedAxes<kTokenAxes, kOperands> tokens;
    AngleAccess angles;
    const void* in[kStreams];
    void* out[kStreams];
    std::int64_t head_strides[2 * kStreams];  // of q, k, out_q, out_k
    const float* weights[kStreams];           // null: no normalisation
    float eps;
};

template <typename T, bool kVector>
__global__ void __launch_bounds__(kNormRopeThreads) norm_rope_forward_kernel(const Launch launch) {
    const RowGeometry& rows = launch.rows;
    const LaneShare share = LaneShare::of<T>(rows);
    const bool normalises = launch.weights[0] != nullptr;
    const bool rotates = launch.angles.cos != nullptr;
    float weights[kStreams][kLaneChannels];
    for (int s = 0; normalises && s < kStreams; ++s) load_parameters<T, kVector>(launch.weights[s], share, weights[s]);

    const std::uint32_t per_block = kNormRopeThreads / rows.lanes;
    const std::uint32_t of_warp = threadIdx.x / kWarpLanes * (kWarpLanes / rows.lanes);
    const std::uint32_t in_warp = threadIdx.x % kWarpLanes / rows.lanes;
    // The bound is the same for a whole warp, whose lanes add up their sums together.
    for (std::uint32_t first = blockIdx.x * per_block + of_warp; first < rows.items; first += gridDim.x * per_block) {
        const bool exists = first + in_warp < rows.items;
        const std::uint32_t item = exists ? first + in_warp : first;
        const std::uint32_t token = rows.head_chunks.divide(item);
        const int chunk = static_cast<int>(item - token * rows.head_chunks.divisor);
        std::int64_t offsets[kOperands];
        launch.tokens.locate(token, offsets);

        bool valid[kHeads];
        LaneRow<T> values[kStreams][kHeads];
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
            const int head = chunk + h * static_cast<int>(rows.head_chunks.divisor);
            valid[h] = exists && head < rows.heads;
#pragma unroll
            for (int s = 0; s < kStreams; ++s)
                values[s][h] = load_row<T, kVector>(
                    static_cast<const T*>(launch.in[s]) + offsets[s] + head * launch.head_strides[s], share, valid[h]);
        }
        LaneAngles angles;
        if (rotates) angles = load_angles<T>(launch.angles, offsets[kCos], offsets[kSin], share);
        float squares[kStreams * kHeads] = {};
        if (normalises) {
#pragma unroll
            for (int r = 0; r < kStreams * kHeads; ++r)
#pragma unroll
                for (int i = 0; i < kLaneChannels; ++i) {
                    const float x = values[r / kHeads][r % kHeads].value(i);
                    squares[r] += x * x;
                }
            add_lanes(squares, rows.lanes);
        }
#pragma unroll
        for (int r = 0; r < kStreams * kHeads; ++r) {
            const int s = r / kHeads, h = r % kHeads;
            float y[kLaneChannels];
#pragma unroll
            for (int i = 0; i < kLaneChannels; ++i) y[i] = values[s][h].value(i);
            if (normalises) {
                const float inverse = rsqrtf(squares[r] * rows.inverse_channels + launch.eps);
#pragma unroll
                for (int i = 0; i < kLaneChannels; ++i) y[i] = y[i] * inverse * weights[s][i];
            }
            if (rotates) rotate<false>(y, angles);
#pragma unroll
            for (int i = 0; i < kLaneChannels; ++i) values[s][h].set(i, y[i]);
            const int head = chunk + h * static_cast<int>(rows.head_chunks.divisor);
            T* out = static_cast<T*>(launch.out[s]) + offsets[kOut + s] + head * launch.head_strides[kOut + s];
            if (valid[h]) store_row<T, kVector>(out, values[s][h], share);
        }
    }
}

Launch prepare(const NormRopeForward& args) {
    const NormRopeSetting& setting = args.setting;
    Launch launch{};
    launch.rows = row_geometry(setting, kHeads);
    launch.tokens = merge_tokens<kOperands>(setting, {args.q.strides, args.k.strides, args.out_q.strides,
                                                      args.out_k.strides, setting.cos.strides, setting.sin.strides});
    launch.in[0] = args.q.data;
    launch.in[1] = args.k.data;
    launch.out[0] = args.out_q.data;
    launch.out[1] = args.out_k.data;
    launch.head_strides[0] = args.q.strides[kAttHead];
    launch.head_strides[1] = args.k.strides[kAttHead];
    launch.head_strides[kOut] = args.out_q.strides[kAttHead];
    launch.head_strides[kOut + 1] = args.out_k.strides[kAttHead];
    launch.weights[0] = setting.q_weight;
    launch.weights[1] = setting.k_weight;
    launch.eps = setting.eps;
    return launch;
}

template <typename T>
int launch_dtype(const NormRopeForward& args, cudaStream_t stream) {
    Launch launch = prepare(args);
    launch.angles = angle_access<T>(args.setting);
    const std::int64_t per_block = items_per_block(launch.rows);
    const auto blocks = static_cast<unsigned>(std::min((launch.rows.items + per_block - 1) / per_block, kMaxBlocks));
    const bool vectors = row_vectors_fit<T>(args.setting, args.q, args.k, args.out_q, args.out_k);
    const auto kernel = vectors ? norm_rope_forward_kernel<T, true> : norm_rope_forward_kernel<T, false>;
    FOURREAL_LAUNCH(kernel, blocks, kNormRopeThreads, 0, stream, launch);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace

const char* qk_norm_rope_refusal(const NormRopeSetting& setting) {
    if (setting.dtype == DType::kFloat64) return "the CUDA kernel has no float64";
    if (setting.sizes[kAttChannel] > kMaxRowChannels) return "the CUDA kernel takes up to 256 channels";
    for (std::int64_t rows = 1, axis = 0; axis < kAttChannel; ++axis) {
        if (setting.sizes[axis] >= (std::int64_t{1} << 31) / rows) return "the CUDA kernel takes less than 2^31 rows";
        rows *= setting.sizes[axis];
    }
    return nullptr;
}

int qk_norm_rope_forward(const NormRopeForward& args, void* stream) {
    if (qk_norm_rope_refusal(args.setting) != nullptr) return cudaErrorInvalidValue;
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    switch (args.setting.dtype) {
        case DType::kFloat32: return launch_dtype<float>(args, cuda_stream);
        case DType::kFloat16: return launch_dtype<__half>(args, cuda_stream);
        case DType::kBFloat16: return launch_dtype<__nv_bfloat16>(args, cuda_stream);
        case DType::kFloat64: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace fourreal::cuda

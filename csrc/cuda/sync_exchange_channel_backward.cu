// Gradients of the per-channel exchange in one pass: two gradients and two streams are read once, two gradients written
// once, 6 * M * C elements for M rows. Sums over rows stay in registers; every block leaves its own, to be added in a
// fixed order, so that results repeat bit for bit.
#include "fourreal/sync_exchange.hpp"

#include "exchange_mix.cuh"
#include "launch.cuh"

namespace fourreal::cuda {
namespace {

enum Tensor : int { kGrad = 0, kStream = 2, kOut = 4, kTensors = 6 };  // the time stream's after each

constexpr int kThreads = 128;
constexpr int kBlocksOfMultiprocessor = 3;

struct Launch {
    RowTensors<kTensors> tensors;
    ExchangeParameters parameters;
    float* partial;
    std::int64_t samples;
    std::int64_t channels;
    std::uint32_t rows;
    std::uint32_t tiles;
};

// Of one thread: g of each output, then g x_view and g x_time of each output, summed over its rows.
template <int kOutputs, int kWidth>
using Sums = float[3 * kOutputs][kWidth];

// The gradients of one row, written over the upstream ones; the row's share of the sums.
template <int kOutputs, int kWidth>
__device__ void row_backward(const float (&factors)[kOutputs][2][kWidth], const float (&x)[2][kWidth],
                             float (&grads)[2][kWidth], Sums<kOutputs, kWidth>& sums) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        const float g[2] = {kOutputs == 1 ? grads[0][i] + grads[1][i] : grads[0][i], grads[1][i]};
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            float gradient = kOutputs == 1 ? 0.0f : g[s];
#pragma unroll
            for (int out = 0; out < kOutputs; ++out) gradient = fmaf(factors[out][s][i], g[out], gradient);
            grads[s][i] = gradient;
        }
#pragma unroll
        for (int out = 0; out < kOutputs; ++out) {
            sums[out][i] += g[out];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                float& sum = sums[kOutputs + 2 * out + s][i];
                sum = fmaf(g[out], x[s][i], sum);
            }
        }
    }
}

// Adds the sums of the threads that share channels and stores them. All threads of the block call it.
template <int kOutputs, int kWidth>
__device__ void store_sums(const Launch& launch, std::int64_t sample, std::int64_t channel,
                           const Sums<kOutputs, kWidth>& sums) {
    __shared__ float shared[kThreads][kWidth];
    const std::int64_t block = sample * gridDim.x + blockIdx.x;
    float* const lists = launch.partial + block * (3 * kOutputs) * launch.channels + channel;
#pragma unroll
    for (int list = 0; list < 3 * kOutputs; ++list) {
        const int thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) shared[thread][i] = sums[list][i];
        __syncthreads();
        if (threadIdx.y == 0 && channel < launch.channels) {
            constexpr int kStored = kWidth == 1 ? 1 : kPackWidth<float>;
#pragma unroll
            for (int first = 0; first < kWidth; first += kStored) {
                Pack<float, kStored> totals = {};
                for (unsigned y = 0; y < blockDim.y; ++y) {
#pragma unroll
                    for (int i = 0; i < kStored; ++i)
                        totals.item[i] += shared[y * blockDim.x + threadIdx.x][first + i];
                }
                store_pack(lists + list * launch.channels + first, totals);
            }
        }
        __syncthreads();
    }
}

template <typename T, int kWidth, ExchangeKind kKind>
__global__ void __launch_bounds__(kThreads, kBlocksOfMultiprocessor) channel_backward_kernel(const Launch launch) {
    constexpr int kOutputs = kOutputsOf<kKind>;
    for (std::int64_t pair = blockIdx.y; pair < launch.samples * launch.tiles; pair += gridDim.y) {
        const std::int64_t sample = pair / launch.tiles;
        const WholePack<T, kWidth> pack{(pair % launch.tiles * blockDim.x + threadIdx.x) * kWidth, launch.channels};
        float factors[kOutputs][2][kWidth];
        Sums<kOutputs, kWidth> sums = {};
        const bool owns = pack.first < launch.channels;
#pragma unroll
        for (int out = 0; owns && out < kOutputs; ++out) {
#pragma unroll
            for (int s = 0; s < 2; ++s)
                load_factors(launch.parameters, pack, sample, kOutputs, out, s, factors[out][s]);
        }
        const std::uint32_t end = owns ? launch.rows : 0;
        for (std::uint32_t row = blockIdx.x * blockDim.y + threadIdx.y; row < end; row += gridDim.x * blockDim.y) {
            const RowPosition at = launch.tensors.position(row);
            Pack<T, kWidth> loaded[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) loaded[k] = pack.load(launch.tensors.row<T>(k, sample, at));
            float grads[2][kWidth];
            float x[2][kWidth];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                to_floats(loaded[kGrad + s], grads[s]);
                to_floats(loaded[kStream + s], x[s]);
            }
            row_backward<kOutputs>(factors, x, grads, sums);
#pragma unroll
            for (int s = 0; s < 2; ++s) pack.store(launch.tensors.row<T>(kOut + s, sample, at), grads[s]);
        }
        store_sums<kOutputs>(launch, sample, pack.first, sums);
    }
}

template <typename T, int kWidth, ExchangeKind kKind>
int launch_kernel(Launch launch, std::int64_t row_blocks, cudaStream_t stream) {
    TileGeometry geometry = tile_geometry(launch.samples, launch.rows, launch.channels, kWidth, kThreads, 1, 1);
    geometry.grid.x = static_cast<unsigned>(row_blocks);
    launch.tiles = geometry.tiles;
    constexpr auto kernel = channel_backward_kernel<T, kWidth, kKind>;
    FOURREAL_LAUNCH(kernel, geometry.grid, geometry.block, 0, stream, launch);
    return static_cast<int>(cudaGetLastError());
}

template <typename T, ExchangeKind kKind>
int launch_access(const Launch& launch, std::int64_t row_blocks, cudaStream_t stream) {
    if (rows_are_aligned<T>(launch.tensors, launch.channels) && parameters_are_aligned(launch.parameters) &&
        is_aligned(launch.partial))
        return launch_kernel<T, kPackWidth<T>, kKind>(launch, row_blocks, stream);
    return launch_kernel<T, 1, kKind>(launch, row_blocks, stream);
}

}  // namespace

std::int64_t channel_backward_row_blocks(const GridSizes& sizes, DType dtype, std::int64_t multiprocessors) {
    const std::int64_t width = kVectorBytes / element_size(dtype);
    const TileGeometry geometry =
        tile_geometry(sizes[kBatch], rows_of_sample(sizes), sizes[kChannel], width, kThreads, 1, 1);
    const std::int64_t at_once = kBlocksOfMultiprocessor * multiprocessors / geometry.grid.y;
    constexpr std::int64_t kFewestRows = 4;  // of a thread: fewer do not repay its factors and sums
    const std::int64_t useful = ceil_div(rows_of_sample(sizes), kFewestRows * geometry.block.y);
    return std::max<std::int64_t>(1, std::min(at_once, useful));
}

int sync_exchange_channel_backward(const ChannelExchangeBackward& args, void* stream) {
    if (element_count(args.sizes) == 0) return cudaSuccess;
    if (rows_of_sample(args.sizes) > kMostRows || args.row_blocks < 1 || args.row_blocks > kMostRows)
        return cudaErrorInvalidValue;
    Launch launch{};
    launch.tensors = row_tensors<kTensors>(args.sizes, {args.grads[0], args.grads[1], args.streams[0], args.streams[1],
                                                        args.outs[0], args.outs[1]});
    launch.parameters = args.parameters;
    launch.partial = args.partial;
    launch.samples = args.sizes[kBatch];
    launch.channels = args.sizes[kChannel];
    launch.rows = static_cast<std::uint32_t>(rows_of_sample(args.sizes));
    return for_element_type(args.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto cuda_stream = static_cast<cudaStream_t>(stream);
        if (args.kind == ExchangeKind::kHard)
            return launch_access<T, ExchangeKind::kHard>(launch, args.row_blocks, cuda_stream);
        return launch_access<T, ExchangeKind::kSoft>(launch, args.row_blocks, cuda_stream);
    });
}

}  // namespace fourreal::cuda

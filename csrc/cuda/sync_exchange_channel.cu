// The per-channel exchange in one pass: both streams are read once and written once, 4 * M * C elements for M rows.
#include "fourreal/sync_exchange.hpp"

#include "exchange_mix.cuh"
#include "launch.cuh"

namespace fourreal::cuda {
namespace {

enum Tensor : int { kViewIn, kTimeIn, kViewOut, kTimeOut, kTensors };

constexpr int kThreads = 256;
constexpr int kRowsInFlight = 2;             // that a thread loads before it stores the first
constexpr std::int64_t kMostBlocks = 2048;   // several waves, yet enough rows a thread to repay its factors

struct Launch {
    RowTensors<kTensors> tensors;
    ExchangeParameters parameters;
    std::int64_t samples;
    std::int64_t channels;
    std::uint32_t rows;
    std::uint32_t tiles;
};

// A thread keeps its channels' factors in registers while it walks rows.
template <typename T, int kWidth, ExchangeKind kKind>
__global__ void __launch_bounds__(kThreads, 2) channel_kernel(const Launch launch) {
    using Values = Pack<T, kWidth>;
    constexpr int kOutputs = kOutputsOf<kKind>;
    for (std::int64_t pair = blockIdx.y; pair < launch.samples * launch.tiles; pair += gridDim.y) {
        const std::int64_t sample = pair / launch.tiles;
        const WholePack<T, kWidth> pack{(pair % launch.tiles * blockDim.x + threadIdx.x) * kWidth, launch.channels};
        if (pack.first >= launch.channels) continue;
        OutputMix<kWidth> mix[kOutputs];
#pragma unroll
        for (int out = 0; out < kOutputs; ++out) mix[out] = load_mix(launch.parameters, pack, sample, kOutputs, out);

        const std::uint32_t step = gridDim.x * blockDim.y;
        for (std::uint32_t first = blockIdx.x * blockDim.y + threadIdx.y; first < launch.rows;
             first += step * kRowsInFlight) {
            Values view[kRowsInFlight];
            Values time[kRowsInFlight];
#pragma unroll
            for (int k = 0; k < kRowsInFlight; ++k) {
                if (first + k * step >= launch.rows) continue;
                const RowPosition at = launch.tensors.position(first + k * step);
                view[k] = pack.load(launch.tensors.row<T>(kViewIn, sample, at));
                time[k] = pack.load(launch.tensors.row<T>(kTimeIn, sample, at));
            }
#pragma unroll
            for (int k = 0; k < kRowsInFlight; ++k) {
                if (first + k * step >= launch.rows) continue;
                float x[2][kWidth];
                to_floats(view[k], x[0]);
                to_floats(time[k], x[1]);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) {
                    const float to_view = mix[0].apply(i, x[0][i], x[1][i]);
                    const float to_time = mix[kOutputs - 1].apply(i, x[0][i], x[1][i]);
                    x[0][i] = kOutputs == 1 ? to_view : x[0][i] + to_view;
                    x[1][i] = kOutputs == 1 ? to_view : x[1][i] + to_time;
                }
                const RowPosition at = launch.tensors.position(first + k * step);
                pack.store(launch.tensors.row<T>(kViewOut, sample, at), x[0]);
                pack.store(launch.tensors.row<T>(kTimeOut, sample, at), x[1]);
            }
        }
    }
}

template <typename T, int kWidth, ExchangeKind kKind>
int launch_kernel(Launch launch, cudaStream_t stream) {
    const TileGeometry geometry = tile_geometry(launch.samples, launch.rows, launch.channels, kWidth, kThreads,
                                                kRowsInFlight, kMostBlocks);
    launch.tiles = geometry.tiles;
    constexpr auto kernel = channel_kernel<T, kWidth, kKind>;
    FOURREAL_LAUNCH(kernel, geometry.grid, geometry.block, 0, stream, launch);
    return static_cast<int>(cudaGetLastError());
}

template <typename T, ExchangeKind kKind>
int launch_access(const Launch& launch, cudaStream_t stream) {
    if (rows_are_aligned<T>(launch.tensors, launch.channels) && parameters_are_aligned(launch.parameters))
        return launch_kernel<T, kPackWidth<T>, kKind>(launch, stream);
    return launch_kernel<T, 1, kKind>(launch, stream);
}

}  // namespace

int sync_exchange_channel(const ChannelExchange& args, void* stream) {
    if (element_count(args.sizes) == 0) return cudaSuccess;
    if (rows_of_sample(args.sizes) > kMostRows) return cudaErrorInvalidValue;
    Launch launch{};
    launch.tensors = row_tensors<kTensors>(args.sizes, {args.streams[0], args.streams[1], args.outs[0], args.outs[1]});
    launch.parameters = args.parameters;
    launch.samples = args.sizes[kBatch];
    launch.channels = args.sizes[kChannel];
    launch.rows = static_cast<std::uint32_t>(rows_of_sample(args.sizes));
    return for_element_type(args.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto cuda_stream = static_cast<cudaStream_t>(stream);
        if (args.kind == ExchangeKind::kHard) return launch_access<T, ExchangeKind::kHard>(launch, cuda_stream);
        return launch_access<T, ExchangeKind::kSoft>(launch, cuda_stream);
    });
}

}  // namespace fourreal::cuda

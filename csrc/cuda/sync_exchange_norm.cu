// Residual, exchange, LayerNorm and modulation of both streams in one pass: four tensors are read once and four written
// once, 8 * M * C elements for M rows (and with the product of a dense exchange M * K more). A row stays in registers
// from its load to its stores; parameters are read again for each row, from the L1 cache.
#include "fourreal/sync_exchange.hpp"

#include "exchange_mix.cuh"
#include "exchange_norm_launch.cuh"
#include "launch.cuh"

namespace fourreal::cuda {
namespace {

using Streams = float[2][kRowWidth];  // a thread's channels of the view stream and of the time stream

template <typename T>
__device__ void load_residuals(const NormLaunch& launch, const RowPack<T>& pack, std::int64_t sample,
                               const RowPosition& at, Streams& x) {
    typename RowPack<T>::Values streams[2];
    typename RowPack<T>::Values branches[2];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        streams[s] = pack.load(launch.tensors.row<T>(NormLaunch::kStream + s, sample, at));
        branches[s] = pack.load(launch.tensors.row<T>(NormLaunch::kBranch + s, sample, at));
    }
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        float gate[kRowWidth];
        float branch[kRowWidth];
        launch.load_per_sample(pack, launch.norm.branch_gate, sample, s, 1.0f, gate);
        pack.to_floats(streams[s], x[s]);
        pack.to_floats(branches[s], branch);
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) x[s][i] = fmaf(gate[i], branch[i], x[s][i]);
    }
}

// The exchanged streams, of which there is one for kHard, in place of the streams.
template <ExchangeKind kKind, typename T>
__device__ void exchange_row(const NormLaunch& launch, const RowPack<T>& pack, std::int64_t sample, std::uint32_t row,
                             Streams& x) {
    constexpr int kOutputs = kOutputsOf<kKind>;
    Streams exchanged;
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
        if (launch.mixed) {
            const auto end = load_product_end(launch.parameters, pack, sample, kOutputs, out);
            float product[kRowWidth];
            pack.to_floats(pack.load(launch.product_row<T>(sample, row, kOutputs, out)), product);
#pragma unroll
            for (int i = 0; i < kRowWidth; ++i)
                exchanged[out][i] = end.apply(i, product[i], kOutputs == 1 ? 0.0f : x[out][i]);
        } else {
            const auto mix = load_mix(launch.parameters, pack, sample, kOutputs, out);
#pragma unroll
            for (int i = 0; i < kRowWidth; ++i) {
                const float taken = mix.apply(i, x[0][i], x[1][i]);
                exchanged[out][i] = kOutputs == 1 ? taken : x[out][i] + taken;
            }
        }
    }
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) x[out][i] = exchanged[out][i];
    }
}

// mean and 1 / sqrt(variance + eps) of the row over its channels, in two passes over registers.
template <int kOutputs>
__device__ void row_statistics(const Streams& x, bool owns, std::int64_t channels, float eps, float (&mean)[kOutputs],
                               float (&inverse)[kOutputs]) {
    __shared__ float shared[2][kMostRowWarps][kOutputs];
    const float per_channel = 1.0f / static_cast<float>(channels);
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
        mean[out] = 0.0f;
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) mean[out] += owns ? x[out][i] : 0.0f;
    }
    sum_over_row(mean, shared[0]);
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
        mean[out] *= per_channel;
        inverse[out] = 0.0f;
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) {
            const float centred = owns ? x[out][i] - mean[out] : 0.0f;
            inverse[out] = fmaf(centred, centred, inverse[out]);
        }
    }
    sum_over_row(inverse, shared[1]);
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) inverse[out] = rsqrtf(fmaf(inverse[out], per_channel, eps));
}

template <int kOutputs, typename T>
__device__ void store_row(const NormLaunch& launch, const RowPack<T>& pack, std::int64_t sample, const RowPosition& at,
                          const Streams& x, const float (&mean)[kOutputs], const float (&inverse)[kOutputs]) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        const int out = kOutputs == 1 ? 0 : s;
        float scale[kRowWidth];
        float shift[kRowWidth];
        float norm[kRowWidth];
        launch.load_per_sample(pack, launch.norm.norm_scale, sample, s, 0.0f, scale);
        launch.load_per_sample(pack, launch.norm.norm_shift, sample, s, 0.0f, shift);
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i)
            norm[i] = fmaf((x[out][i] - mean[out]) * inverse[out], 1.0f + scale[i], shift[i]);
        pack.store(launch.tensors.row<T>(NormLaunch::kOut + s, sample, at), x[out]);
        pack.store(launch.tensors.row<T>(NormLaunch::kNorm + s, sample, at), norm);
    }
}

template <typename T, ExchangeKind kKind>
__global__ void __launch_bounds__(kMostRowThreads) norm_kernel(const NormLaunch launch) {
    constexpr int kOutputs = kOutputsOf<kKind>;
    const RowPack<T> pack{static_cast<std::int64_t>(threadIdx.x) * kRowWidth, launch.channels};
    for (std::int64_t local = blockIdx.y; local < launch.chunk.samples; local += gridDim.y) {
        const std::int64_t sample = launch.chunk.first_sample + local;
        const std::uint32_t step = gridDim.x * blockDim.y;
        for (std::uint32_t begin = blockIdx.x * blockDim.y; begin < launch.chunk.rows; begin += step) {
            const std::uint32_t row = begin + threadIdx.y;
            const bool owns = row < launch.chunk.rows && pack.first < launch.channels;
            const RowPosition at = launch.position(owns ? row : 0);
            Streams x;
            float mean[kOutputs];
            float inverse[kOutputs];
            if (owns) {
                load_residuals(launch, pack, sample, at, x);
                exchange_row<kKind>(launch, pack, sample, row, x);
            }
            row_statistics(x, owns, launch.channels, launch.eps, mean, inverse);
            if (owns) store_row(launch, pack, sample, at, x, mean, inverse);
        }
    }
}

template <typename T, ExchangeKind kKind>
int launch_vectors(const NormLaunch& launch, cudaStream_t stream) {
    constexpr auto kernel = norm_kernel<T, kKind>;
    FOURREAL_LAUNCH(kernel, launch.grid(), launch.block(), 0, stream, launch);
    return static_cast<int>(cudaGetLastError());
}

template <typename T>
bool is_aligned(const NormLaunch& launch) {
    bool aligned = rows_are_aligned<T>(launch.tensors, launch.channels) && launch.channels % kRowWidth == 0 &&
                   parameters_are_aligned(launch.parameters);
    for (const void* array : {launch.mixed, launch.norm.branch_gate, launch.norm.norm_scale, launch.norm.norm_shift})
        aligned = aligned && cuda::is_aligned(array);
    return aligned;
}

}  // namespace

int sync_exchange_norm(const NormExchange& args, void* stream) {
    if (element_count(args.sizes) == 0) return cudaSuccess;
    if (rows_of_sample(args.sizes) > kMostRows || args.sizes[kChannel] > kMostRowChannels) return cudaErrorInvalidValue;
    const ExchangeNorm& norm = args.norm;
    NormLaunch launch{};
    launch.tensors = row_tensors<NormLaunch::kTensors>(
        args.sizes, {args.streams[0], args.streams[1], norm.branches[0], norm.branches[1], args.outs[0], args.outs[1],
                     norm.norms[0], norm.norms[1]});
    launch.parameters = args.parameters;
    launch.norm = norm;
    launch.mixed = args.mixed;
    launch.chunk = args.chunk;
    launch.channels = args.sizes[kChannel];
    launch.eps = static_cast<float>(norm.eps);
    return for_element_type(args.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto cuda_stream = static_cast<cudaStream_t>(stream);
        if (!is_aligned<T>(launch)) return launch_norm_elements(launch, args.kind, args.dtype, cuda_stream);
        if (args.kind == ExchangeKind::kHard) return launch_vectors<T, ExchangeKind::kHard>(launch, cuda_stream);
        return launch_vectors<T, ExchangeKind::kSoft>(launch, cuda_stream);
    });
}

}  // namespace fourreal::cuda

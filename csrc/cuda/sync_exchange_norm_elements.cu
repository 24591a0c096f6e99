// The fused exchange of rows that cannot be moved 16 bytes at a time: one element after another, a row in shared
// memory. Every thread owns the channels that it owns in the kernel on vectors and adds them in the same order, so that
// a result does not depend on strides.
#include "exchange_mix.cuh"
#include "exchange_norm_launch.cuh"
#include "launch.cuh"

namespace fourreal::cuda {
namespace {

template <typename T>
__device__ float load_residual(const NormLaunch& launch, const WholePack<T, 1>& pack, std::int64_t sample,
                               const RowPosition& at, int stream) {
    float gate[1];
    launch.load_per_sample(pack, launch.norm.branch_gate, sample, stream, 1.0f, gate);
    const float x = to_float(launch.tensors.row<T>(NormLaunch::kStream + stream, sample, at)[pack.first]);
    return fmaf(gate[0], to_float(launch.tensors.row<T>(NormLaunch::kBranch + stream, sample, at)[pack.first]), x);
}

// One channel of both exchanged streams.
template <typename T>
__device__ void exchange_element(const NormLaunch& launch, int outputs, const WholePack<T, 1>& pack,
                                 std::int64_t sample, std::uint32_t row, const RowPosition& at, float (&x)[2]) {
    const float streams[2] = {load_residual(launch, pack, sample, at, 0), load_residual(launch, pack, sample, at, 1)};
    for (int out = 0; out < outputs; ++out) {
        const float residual = outputs == 1 ? 0.0f : streams[out];
        if (launch.mixed) {
            const float product = to_float(launch.product_row<T>(sample, row, outputs, out)[pack.first]);
            x[out] = load_product_end(launch.parameters, pack, sample, outputs, out).apply(0, product, residual);
        } else {
            const auto mix = load_mix(launch.parameters, pack, sample, outputs, out);
            const float taken = mix.apply(0, streams[0], streams[1]);
            x[out] = outputs == 1 ? taken : residual + taken;
        }
    }
    if (outputs == 1) x[1] = x[0];
}

template <typename T>
__global__ void __launch_bounds__(kMostRowThreads, 1) norm_elements_kernel(const NormLaunch launch, const int outputs) {
    FOURREAL_DYNAMIC_SHARED(float, rows);
    __shared__ float shared[2][kMostRowWarps][2];
    const std::int64_t channels = launch.channels;
    float* const held[2] = {rows + 2 * threadIdx.y * channels, rows + (2 * threadIdx.y + 1) * channels};
    const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kRowWidth;
    const std::int64_t last = first + kRowWidth < channels ? first + kRowWidth : channels;
    const float per_channel = 1.0f / static_cast<float>(channels);
    for (std::int64_t local = blockIdx.y; local < launch.chunk.samples; local += gridDim.y) {
        const std::int64_t sample = launch.chunk.first_sample + local;
        const std::uint32_t step = gridDim.x * blockDim.y;
        for (std::uint32_t begin = blockIdx.x * blockDim.y; begin < launch.chunk.rows; begin += step) {
            const std::uint32_t row = begin + threadIdx.y;
            const std::int64_t end = row < launch.chunk.rows ? last : first;
            const RowPosition at = launch.position(row < launch.chunk.rows ? row : 0);
            float mean[2] = {0.0f, 0.0f};
#pragma unroll 1
            for (std::int64_t c = first; c < end; ++c) {
                float x[2];
                exchange_element(launch, outputs, WholePack<T, 1>{c, channels}, sample, row, at, x);
                for (int s = 0; s < 2; ++s) mean[s] += held[s][c] = x[s];
            }
            sum_over_row(mean, shared[0]);
            float inverse[2] = {0.0f, 0.0f};
            for (int s = 0; s < 2; ++s) {
                mean[s] *= per_channel;
                for (std::int64_t c = first; c < end; ++c)
                    inverse[s] = fmaf(held[s][c] - mean[s], held[s][c] - mean[s], inverse[s]);
            }
            sum_over_row(inverse, shared[1]);
            for (int s = 0; s < 2; ++s) {
                const float factor = rsqrtf(fmaf(inverse[s], per_channel, launch.eps));
                T* const out = launch.tensors.row<T>(NormLaunch::kOut + s, sample, at);
                T* const norm = launch.tensors.row<T>(NormLaunch::kNorm + s, sample, at);
#pragma unroll 1
                for (std::int64_t c = first; c < end; ++c) {
                    float scale[1];
                    float shift[1];
                    const WholePack<T, 1> pack{c, channels};
                    launch.load_per_sample(pack, launch.norm.norm_scale, sample, s, 0.0f, scale);
                    launch.load_per_sample(pack, launch.norm.norm_shift, sample, s, 0.0f, shift);
                    out[c] = from_float<T>(held[s][c]);
                    norm[c] = from_float<T>(fmaf((held[s][c] - mean[s]) * factor, 1.0f + scale[0], shift[0]));
                }
            }
        }
    }
}

}  // namespace

int launch_norm_elements(const NormLaunch& launch, ExchangeKind kind, DType dtype, cudaStream_t stream) {
    return for_element_type(dtype, [&](auto zero) {
        constexpr auto kernel = norm_elements_kernel<decltype(zero)>;
        const dim3 block = launch.block();
        const std::size_t held = 2 * block.y * static_cast<std::size_t>(launch.channels) * sizeof(float);
        FOURREAL_LAUNCH(kernel, launch.grid(), block, held, stream, launch, kind == ExchangeKind::kHard ? 1 : 2);
        return static_cast<int>(cudaGetLastError());
    });
}

}  // namespace fourreal::cuda
